"""Product of two matrices, neither of which is a parameter, over any leading axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op
from mase.ops.operations import Operations


@OPS.add("matmul")
class Matmul(Op):
    """y = a b on the last two axes; one input alone stands beside the operand ``other``, which is b (reverse: a)."""

    kind: ClassVar[str] = "matmul"
    family: ClassVar[Family] = "compute"
    arity: ClassVar[tuple[int, int]] = (1, 2)
    weights: ClassVar[tuple[str, ...]] = ("other",)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        a, b = inputs if len(inputs) == 2 else (inputs[0], operands["other"])
        return torch.matmul(b, a) if record.attrs.get("reverse") else torch.matmul(a, b)

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        reverse = node.record.attrs.get("reverse") and "other" in node.record.operands
        left = node.record.operands["other"] if reverse else node.inputs[0].record.output
        return Operations(math.prod(node.record.output.shape) * left.shape[-1])

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        if (len(node.inputs) == 2) == ("other" in node.record.operands):
            raise GraphError(f"{node.where()}: needs one second operand: an input, or other")
        other = node.inputs[1].record.output if len(node.inputs) == 2 else node.record.operands["other"]
        a, b = node.inputs[0].record.output.shape, other.shape
        a, b = (b, a) if node.record.attrs.get("reverse") else (a, b)
        if not a or not b or a[-1] != b[max(len(b) - 2, 0)]:
            raise GraphError(f"{node.where()}: {a} times {b}: the inner sizes differ")
