"""Sum of two tensors, such as a residual connection; also their difference."""

from __future__ import annotations

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
from mase.ops.base import OPS, Family
from mase.ops.elementwise import Elementwise, swapped


@OPS.add("add")
@dataclass(frozen=True, eq=False)
class Add(Elementwise):
    """y = a + b, or a - b where function is sub.

    One input alone stands beside the operand ``other`` or the number in attribute ``value``; reverse: that one is a.
    A smaller input is spread over the other one.
    """

    kind: ClassVar[str] = "add"
    family: ClassVar[Family] = "function"
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]] = {"add": operator.add, "sub": operator.sub}
    usual: ClassVar[str] = "add"
    built: ClassVar[frozenset[str]] = frozenset({"add", "sub"})
    lines: ClassVar[frozenset[tuple[str, bool]]] = frozenset((f, r) for f in ("add", "sub") for r in (False, True))

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return Add.compute(record, operands, inputs)

    @classmethod
    def combines(cls, node: OpNode) -> bool:
        return not node.record.operands and not {"activation", "value"} & node.record.attrs.keys()

    @classmethod
    def paired(
        cls, record: Record, a: Grid, b: Grid, y: Grid, scale: Scale, mode: str, where: str
    ) -> tuple[Pairing, Output]:
        attrs = record.attrs
        relu, minus = attrs.get("activation") == "relu", attrs.get("function") == "sub"
        return Pairing.of_sum(a, b, y, scale, minus, relu, mode, where)

    @classmethod
    def line(cls, record: Record, constant: Tensor) -> tuple[Tensor, Tensor]:
        one, minus, reverse = torch.ones_like(constant), record.attrs.get("function") == "sub", swapped(record)
        return (-one if minus and reverse else one), (-constant if minus and not reverse else constant)
