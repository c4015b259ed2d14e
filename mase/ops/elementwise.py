"""What sums and products of two tensors share: which operand is a constant, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import Op, one_of
from mase.ops.operations import Operations, each


class Elementwise(Op):
    """y = f(a, b). One input alone stands beside operand ``other`` or the number ``value`` (reverse: that one is a)."""

    arity: ClassVar[tuple[int, int]] = (1, 2)
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]]  # a tensor or a number on either side
    usual: ClassVar[str]  # the function that attributes need not name

    @classmethod
    def compute(cls, record: Record, operands: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute in float."""
        attrs = record.attrs
        other = inputs[1] if len(inputs) == 2 else operands.get("other", attrs.get("value"))
        a, b = (other, inputs[0]) if attrs.get("reverse") else (inputs[0], other)
        return cls.functions[attrs.get("function", cls.usual)](a, b)

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        one_of(node, "function", cls.functions, cls.usual)
        given = [len(node.inputs) == 2, "other" in node.record.operands, "value" in node.record.attrs]
        if sum(given) != 1:
            raise GraphError(
                f"{node.where()}: has {sum(given)} second operands; allowed is 1: an input, other or value"
            )
