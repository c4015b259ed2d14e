"""Product of two tensors, such as a gate; also their quotient."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.pair import Pairing, Scale
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Passage
from mase.ops.elementwise import Elementwise


@OPS.add("mul")
@dataclass(frozen=True, eq=False)
class Mul(Elementwise):
    """y = a * b, or a / b where function is div.

    One input alone stands beside the operand ``other`` or the number in attribute ``value``; reverse: that one is a.
    A smaller input is spread over the other one. Hardware divides by constants alone.
    """

    kind: ClassVar[str] = "mul"
    family: ClassVar[Family] = "function"
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]] = {"mul": operator.mul, "div": operator.truediv}
    usual: ClassVar[str] = "mul"
    built: ClassVar[frozenset[str]] = frozenset({"mul"})
    lines: ClassVar[frozenset[tuple[str, bool]]] = frozenset({("mul", False), ("mul", True), ("div", False)})

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return Mul.compute(record, operands, inputs)

    @classmethod
    def combines(cls, node: OpNode) -> bool:
        record = node.record
        number = "value" in record.attrs or all(math.prod(kind.shape) == 1 for kind in record.operands.values())
        return len(node.inputs) == 1 and number and not {"activation", "reverse"} & record.attrs.keys()

    @classmethod
    def passes(cls, node: OpNode) -> Passage | None:
        divides = node.record.attrs.get("function") == "div"
        return None if len(node.inputs) != 2 or divides else Passage((0, 1))

    @classmethod
    def paired(
        cls, record: Record, a: Grid, b: Grid, y: Grid, scale: Scale, mode: str, where: str
    ) -> tuple[Pairing, Output]:
        attrs = record.attrs
        return Pairing.of_product(a, b, y, scale, attrs.get("activation") == "relu", mode, where)

    @classmethod
    def line(cls, record: Record, constant: Tensor) -> tuple[Tensor, Tensor]:
        return (1 / constant if record.attrs.get("function") == "div" else constant), torch.zeros_like(constant)
