"""Comparisons in place of a table or a multiplier, where the results have at most 4 bits (hw/threshold)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from mase.blocks.threshold import Steps, Threshold, ThresholdFoldings
from mase.dataflow.block import LEAST_FIFO, Block
from mase.formats import Code
from mase.lowering import ALTERNATIVES
from mase.ops.base import Arithmetic, InRow, Pointwise


@dataclass(frozen=True, eq=False)
class Thresholds(InRow):
    """y = low + how many thresholds x has reached: of a function of each code that never falls and has few values.

    The thresholds are found from the function itself, as software rounds it, so the codes are the same.

    Args:
        function: of each code, and how elements travel. steps: its thresholds.
    """

    function: Pointwise
    steps: Steps

    @classmethod
    def of(cls, op: Arithmetic) -> Self | None:
        """Return the thresholds of an operator; None where it is no such function."""
        found = op.pointwise()
        if found is None:
            return None
        steps = Steps.of(found.x, found.y, found.codes, bool(found.rising), found.first)
        return None if steps is None else cls(found, steps)

    def reference(self, *inputs: Code) -> Code:
        order = self.function.order
        found = self.steps.codes(order.travelling(inputs[0]).mantissa)
        return order.held(Code(found), inputs[0].mantissa.shape[1:])

    def oracle(self, *inputs: Code) -> Code:
        flat = [self.steps.scalar(x) for x in inputs[0].mantissa.flatten().tolist()]
        return Code(torch.tensor(flat).reshape(inputs[0].mantissa.shape))

    @property
    def foldings(self) -> ThresholdFoldings:
        return self._block(1, LEAST_FIFO).foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return {"": self._block(pe, fifos.get("", LEAST_FIFO))}

    def _block(self, lanes: int, fifo: int) -> Threshold:
        order = self.function.order
        return Threshold(order.rows, order.cols, lanes, self.steps, fifo=fifo)


@ALTERNATIVES.add("threshold")
def thresholds(op: Arithmetic) -> Arithmetic | None:
    """Return the thresholds of an operator."""
    return Thresholds.of(op)
