"""Sum of two tensors, such as a residual connection; also their difference."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from mase.graph import Record
from mase.ops.base import OPS, Family
from mase.ops.elementwise import Elementwise


@OPS.add("add")
class Add(Elementwise):
    """y = a + b, or a - b where function is sub.

    One input alone stands beside the operand ``other`` or the number in attribute ``value``; reverse: that one is a.
    """

    kind: ClassVar[str] = "add"
    family: ClassVar[Family] = "function"
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]] = {"add": operator.add, "sub": operator.sub}
    usual: ClassVar[str] = "add"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return Add.compute(record, operands, inputs)
