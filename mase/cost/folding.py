"""Every useful folding of an operator, with cycles and cost."""

from __future__ import annotations

from dataclasses import dataclass

from mase.cost.resources import Resources
from mase.ops.base import HardwareOp


@dataclass(frozen=True)
class Choice:
    """One folding of one operator.

    Args:
        cycles: a sample. resources: of all its blocks.
    """

    simd: int
    pe: int
    cycles: int
    resources: Resources
    cost: float = 0.0


def choices(op: HardwareOp, target: str) -> list[Choice]:
    return [Choice(1, 1, 1, Resources())]
