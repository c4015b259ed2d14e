"""A tensor that the model holds: a buffer, a mask, position numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from mase.graph import OpNode, Record
from mase.ops.base import OPS, Op, need
from mase.ops.operations import Operations


@OPS.add("constant")
class Constant(Op):
    """y = the operand ``value``."""

    kind: ClassVar[str] = "constant"
    constant: ClassVar[bool] = True
    arity: ClassVar[tuple[int, int]] = (0, 0)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return operands["value"]

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return Operations()

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        need(node, "value")
