"""What one node computes, counted: products that are summed, and everything else that is done to single numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SOFTMAX = 5  # an element: compare with the greatest, subtract it, exponential, sum, divide
SOFTMAX_MASKED = 2  # more an element of attention: scale, add the mask


@dataclass(frozen=True)
class Operations:
    """Count the arithmetic of a node on its traced shapes, batch included.

    Args:
        macs: multiply-accumulates of matrix products and convolutions; a bias is where a sum starts and costs nothing.
        other: sums, products, comparisons and function values of single elements; a function value counts as one.
    """

    macs: int = 0
    other: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations: two for a multiply-accumulate."""
        return 2 * self.macs + self.other

    def __add__(self, more: Operations) -> Operations:
        return Operations(self.macs + more.macs, self.other + more.other)


def each(shape: Sequence[int], operations: int = 1) -> Operations:
    """Return that many operations for each element."""
    return Operations(other=operations * math.prod(shape))
