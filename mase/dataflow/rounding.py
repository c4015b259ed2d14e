"""One rounding per operator: from an exact integer to a code (docs/arithmetic.md, 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mase.errors import InternalError, UnsupportedOp
from mase.formats.whole import whole

MODES = ("even", "half_up", "trunc")  # index is the RTL parameter
MULT_BITS = 16
FLOAT_SAFE = 1 << 52  # integers below this, and half of one, are exact in float64
NARROW_SAFE = 1 << 24  # integers up to this are exact in float32
CARRIERS = (  # dtype, the integers that it holds to the last bit, those that it holds without overflow
    (torch.float32, 1 << 24, 1 << 127),
    (torch.float64, 1 << 53, 1 << 1000),
    (torch.int64, 1 << 62, 1 << 63),
)
NARROW_SHIFT = 64  # 24 bits shifted by this are far from the ends of float32's exponents
INT_BITS = 62  # widest value that the int64 path may round


@dataclass(frozen=True)
class Rounding:
    """y = clamp(round(t / 2**shift), low, high); a negative shift multiplies.

    Args:
        shift: bits dropped. low, high: saturation bounds (a fused ReLU raises ``low`` to 0: it commutes here).
        mode: ``even``, ``half_up`` or ``trunc``.
    """

    shift: int
    low: int
    high: int
    mode: str = "even"

    def apply(self, t: Tensor) -> Tensor:
        """Round integers held exactly in float32 (float64 comes out where that has too few bits), float64 or int64."""
        if t.dtype == torch.int64:
            return self._integer(t)
        if t.dtype == torch.float32 and (abs(self.shift) > NARROW_SHIFT or max(-self.low, self.high) > NARROW_SAFE):
            t = t.to(torch.float64)
        y = t * 2.0**-self.shift
        if self.mode == "trunc":
            y = y.floor_()
        elif self.mode == "even":
            y = y.round_()
        else:  # the distance to a neighbour is exact, y + 0.5 is not
            even = y.round()
            y = even.add_(y - even == 0.5)
        return y.clamp_(self.low, self.high)

    def _integer(self, t: Tensor) -> Tensor:
        if self.shift <= 0:  # beyond the bounds it saturates either way, so clamp before the shift
            small = t.clamp(self.low, self.high).to(torch.float64) * 2.0**-self.shift
            return whole(small.clamp_(self.low, self.high))
        shift = min(self.shift, INT_BITS)
        if self.mode == "trunc":
            return (t >> shift).clamp_(self.low, self.high)
        half = t + (1 << shift - 1)
        y = half >> shift
        if self.mode == "even":
            y = torch.where((half & ((1 << shift) - 1)) == 0, y & ~1, y)
        return y.clamp_(self.low, self.high)

    def scalar(self, t: int) -> int:
        """Round one Python integer, from the definition: the oracle of :meth:`apply`."""
        if self.shift <= 0:
            y = t << -self.shift
        else:
            down, rest = divmod(t, 2**self.shift)
            half = 2 ** (self.shift - 1)
            up = rest > half or (rest == half and (self.mode == "half_up" or down % 2 == 1))
            y = down + (up and self.mode != "trunc")
        return min(max(y, self.low), self.high)


def carrier(sums: int, *operands: int) -> torch.dtype:
    """Return the narrowest dtype for exact sums of products: float32, float64 or int64.

    Sums are held to the last bit. An operand above all sums meets nothing but zeros, so of its bits none count, but it
    has to be finite: zero times infinity is not a number.

    Args:
        sums: greatest absolute value of a sum, all partial ones included.
        operands: greatest absolute values of what is multiplied.
    """
    widest = max(operands, default=0)
    for dtype, exact, finite in CARRIERS:
        if sums < exact and widest < finite:
            return dtype
    raise InternalError(f"no carrier for sums up to {sums} of operands up to 2**{widest.bit_length()}")


def dyadic(ratio: Tensor, where: str) -> tuple[Tensor, int, list[str]]:
    """Return ``(m, k, warnings)`` with m an unsigned 16-bit integer for each ratio and ratio ~ m / 2**k, one k for all.

    Args:
        ratio: positive float64 ``[channels]``.

    Raises:
        UnsupportedOp: a ratio is so small beside the largest that its m would be 0, or is not a number above 0.
    """
    if not bool(((ratio > 0) & torch.isfinite(ratio)).all()):
        raise UnsupportedOp(
            f"{where}: scales give the multipliers {ratio.tolist()[:4]}; allowed are finite ones above 0"
        )
    top = float(ratio.max())
    k = MULT_BITS - math.frexp(top)[1]
    m = whole(torch.ldexp(ratio, torch.tensor(k)).round())
    if int(m.max()) >= 1 << MULT_BITS:
        k -= 1
        m = whole(torch.ldexp(ratio, torch.tensor(k)).round())
    if int(m.min()) == 0:
        raise UnsupportedOp(
            f"{where}: the scale of channel {int(m.argmin())} is over 2**{MULT_BITS} times below the largest; "
            "give the weights a format with one scale, or prune the channel"
        )
    low = int((m < 1 << 8).sum())
    return m, k, [f"{where}: {low} channel multipliers are below 2**8, so coarser than 0.2 %"] * (low > 0)
