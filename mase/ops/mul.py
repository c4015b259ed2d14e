"""Product of two tensors, such as a gate; also their quotient."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from mase.graph import Record
from mase.ops.base import OPS, Family
from mase.ops.elementwise import Elementwise


@OPS.add("mul")
class Mul(Elementwise):
    """y = a * b, or a / b where function is div.

    One input alone stands beside the operand ``other`` or the number in attribute ``value``; reverse: that one is a.
    """

    kind: ClassVar[str] = "mul"
    family: ClassVar[Family] = "function"
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]] = {"mul": operator.mul, "div": operator.truediv}
    usual: ClassVar[str] = "mul"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return Mul.compute(record, operands, inputs)
