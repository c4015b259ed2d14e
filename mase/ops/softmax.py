"""Softmax along one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, an_axis
from mase.ops.operations import SOFTMAX, Operations, each


@OPS.add("softmax")
class Softmax(Op):
    """y = exp(x) / sum of exp(x) along an axis.

    Attributes: axis; log where the logarithm of it is meant; dtype where the model computes and gives it in another
    one.
    """

    kind: ClassVar[str] = "softmax"
    family: ClassVar[Family] = "function"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        attrs = record.attrs
        dtype = getattr(torch, attrs["dtype"]) if "dtype" in attrs else None
        function = F.log_softmax if attrs.get("log") else F.softmax
        return function(inputs[0], attrs["axis"], dtype=dtype)

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape, SOFTMAX)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        an_axis(node, "axis", len(node.inputs[0].record.output.shape))
