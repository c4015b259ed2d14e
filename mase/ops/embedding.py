"""Embedding: the rows of a table that integers name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, need
from mase.ops.operations import Operations


@OPS.add("embedding")
class Embedding(Op):
    """y = weight[ids + offset].

    Attributes: role (token, position, type) where it is known; offset, of tables that start with reserved rows;
    padding_idx; from_end: ids below 0 count from the end, as ONNX has them.
    """

    kind: ClassVar[str] = "embedding"
    family: ClassVar[Family] = "compute"
    weights: ClassVar[tuple[str, ...]] = ("weight",)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        ids, offset = inputs[0], record.attrs.get("offset", 0)
        if record.attrs.get("from_end"):
            ids = torch.where(ids < 0, ids + operands["weight"].shape[0], ids)
        return F.embedding(ids + offset if offset else ids, operands["weight"], record.attrs.get("padding_idx"))

    @classmethod
    def writes(cls, node: OpNode) -> Mapping[str, int]:
        return {"weight": 1}

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return Operations()

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        need(node, "weight")
        shape, dtype = node.record.operands["weight"].shape, node.inputs[0].record.output.dtype
        if len(shape) != 2:
            raise GraphError(f"{node.where()}: weight has shape {shape}; allowed is (rows, features)")
        if dtype not in ("int64", "int32"):
            raise GraphError(f"{node.where()}: input is {dtype}; allowed are int64 and int32")
