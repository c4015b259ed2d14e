"""An axis of a plot: from values to places in percent of its length, and the values that are written beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "log", "error"]
MARGIN = 0.05  # of the range, left free at both ends
WIDE = 8.0  # a range of more than this factor is drawn on a logarithmic scale
MOST_TICKS = 7


@dataclass(frozen=True)
class Tick:
    """A value written beside the axis; ``place`` in percent from the low end."""

    place: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Place values along an axis.

    Args:
        kind: ``linear``; ``log``; ``error``, the logarithm of 1 - value, so that 99 and 99.9 % lie apart.
        low, high: ends of the axis, after the transformation. least: what a value or error of 0 is drawn as.
    """

    kind: Kind
    low: float
    high: float
    least: float = 1e-12

    @classmethod
    def over(cls, values: Sequence[float], fraction: bool = False, linear: bool = False) -> Scale:
        """Return an axis that shows all values.

        Args:
            values: at least one, finite. fraction: they are scores, 0..1, better towards 1. linear: logarithms.
        """
        ends = (min(values), max(values))
        sizes = [1 - v for v in values] if fraction else list(values)
        positive = [size for size in sizes if size > 0]
        least = min(positive, default=1.0) / (2 if min(sizes) <= 0 else 1)
        wide = not linear and min(sizes) >= 0 and bool(positive) and max(positive) > WIDE * least
        kind: Kind = "linear" if not wide else "error" if fraction else "log"
        raw = cls(kind, 0, 1, least)
        low, high = (raw.transform(v) for v in ends)
        margin = MARGIN * (high - low) or MARGIN * abs(high) or MARGIN
        return cls(kind, low - margin, high + margin, least)

    def transform(self, value: float) -> float:
        """Return what is proportional to the place."""
        if self.kind == "linear":
            return value
        if self.kind == "log":
            return math.log10(max(value, self.least))
        return -math.log10(max(1 - value, self.least))

    def place(self, value: float) -> float:
        """Return the place in percent from the low end, 0..100; values outside lie on the end."""
        where = (self.transform(value) - self.low) / (self.high - self.low)
        return 100 * min(max(where, 0.0), 1.0)

    def _value(self, transformed: float) -> float:
        """Undo the transformation."""
        if self.kind == "linear":
            return transformed
        return 10**transformed if self.kind == "log" else 1 - 10**-transformed

    def ticks(self, label: Callable[[float], str]) -> tuple[Tick, ...]:
        """Return 2 to 7 round values within the axis."""
        first, last = (self._value(end) for end in (self.low, self.high))
        rounds = _steps(first, last)
        if self.kind == "log":
            rounds = _decades(first, last) or rounds
        elif self.kind == "error":
            rounds = [1 - e for e in _decades(1 - last, 1 - first)][::-1] or rounds
        return tuple(Tick(self.place(v), label(v)) for v in rounds if self.low <= self.transform(v) <= self.high)


def _steps(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, at most about six."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return the densest of the series 1-2-5, 1-3, 1 and fewer powers that is not too dense; none if too thin."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for series in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in exponents for m in series if low <= m * 10.0**e <= high]
        if len(found) <= MOST_TICKS:
            return found if len(found) >= 2 else []
    return found[:: math.ceil(len(found) / MOST_TICKS)]
