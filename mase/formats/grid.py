"""Formats as integer arithmetic sees them: every value is an integer times one unit, known before any data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from mase.errors import UnsupportedOp
from mase.formats.base import Code, Format, floor_log2, pow2
from mase.formats.block_scales import BlockScales
from mase.formats.whole import whole

# Significands from here round up to the next power of two: the least above sqrt(2), the midpoint of the logarithm,
# which is not a float and therefore not a tie.
MIDDLE = math.sqrt(2.0)
FLOAT_BITS = 52  # integers of more may have more digits than a float64
MOST_INTEGER = 16  # bits up to which a floating-point number becomes an integer; above, it keeps its own exponent


@dataclass(frozen=True)
class Pattern:
    """Codes of a sign, an exponent and a mantissa, sign on top: the value is +-digits * 2**shift.

    Args:
        exp, man: bits of exponent and mantissa. top: greatest code of a number, sign left out.
        subnormal: exponents 0 and 1 weigh the same, and 0 has no hidden digit; else all codes have one: powers of two
            without a zero, to which units round in the logarithm.
        own: on chip, digits keep an exponent of their own; else a code becomes the integer digits << shift.
    """

    exp: int
    man: int
    top: int
    subnormal: bool = True
    own: bool = False

    @property
    def width(self) -> int:
        """Bits of a code."""
        return 1 + self.exp + self.man

    @property
    def most_shift(self) -> int:
        """Greatest shift."""
        return max(0, (self.top >> self.man) - self.subnormal)

    @property
    def most_digits(self) -> int:
        """Greatest digits, of any exponent."""
        return min((2 << self.man) - 1, self.top) if self.subnormal else (2 << self.man) - 1

    @property
    def most(self) -> int:
        """Greatest integer."""
        field, fraction = self.top >> self.man, self.top & (1 << self.man) - 1
        hidden = int(field > 0 or not self.subnormal)
        return fraction + (hidden << self.man) << self.most_shift

    def split(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed digits and shifts, int64; what lies above ``top`` counts as ``top``."""
        number = (codes & (1 << self.width - 1) - 1).clamp(max=self.top)
        field, fraction = number >> self.man, number & (1 << self.man) - 1
        hidden = (field > 0).to(torch.int64) if self.subnormal else torch.ones_like(field)
        digits = fraction + (hidden << self.man)
        return torch.where(codes >> self.width - 1 & 1 == 1, -digits, digits), (field - int(self.subnormal)).clamp(
            min=0
        )

    def codes(self, v: Tensor) -> Tensor:
        """Return the codes nearest to float64 ``v``, ties to even, saturating; a zero has no sign."""
        if not self.subnormal:
            return self._powers(v)
        exponent = floor_log2(v.abs()).clamp_(self.man, 1000)
        digits = (v.abs() * pow2(self.man - exponent)).round_().clamp_(max=2.0 ** (self.man + 1))
        number = (whole(digits) + (exponent - self.man << self.man)).clamp_(max=self.top)
        return number + ((v < 0) & (number > 0)).to(torch.int64) * (1 << self.width - 1)

    def scalar(self, t: int, down: int) -> int:
        """Return the code nearest to t / 2**down, by integers alone: the oracle of :meth:`codes`."""
        if t == 0:
            return 0
        if not self.subnormal:
            floor = abs(t).bit_length() - 1
            power = floor + (t * t > 1 << 2 * floor + 1) - down
            return min(max(power, 0), self.top) + (1 << self.width - 1) * (t < 0)
        size, drop = abs(t), max(abs(t).bit_length() - 1 - self.man, down)
        digits = size << -drop if drop <= 0 else size >> drop
        rest = 0 if drop <= 0 else size - (digits << drop)
        if drop > 0 and (2 * rest > 1 << drop or (2 * rest == 1 << drop and digits % 2 == 1)):
            digits += 1
        number = min(digits + (drop - down << self.man), self.top)
        return number + (1 << self.width - 1) * (t < 0 and number > 0)

    def _powers(self, v: Tensor) -> Tensor:
        """Return the powers of two nearest to ``v`` in the logarithm; a zero becomes the least."""
        floor = floor_log2(v.abs()).clamp_(-1000, 1000)
        number = (floor + (v.abs() >= pow2(floor) * MIDDLE)).clamp_(0, self.top)
        return number + ((v < 0).to(torch.int64) << self.width - 1)


@dataclass(frozen=True)
class Rise:
    """A block's exponent is one more where its greatest magnitude begins with so many ones.

    Args:
        ones: digits behind the leading one that are all 1. more: anything above 0 has to come behind these.
    """

    ones: int
    more: bool

    @classmethod
    def of(cls, significand: float) -> Rise | None:
        """Return the rule of a significand in (1, 2] from which the exponent is one more; 2 is never.

        Such significands are 2 - 2**-n, or the least number above one.
        """
        if significand == 2.0:
            return None
        below = math.nextafter(significand, 1.0)
        more = Fraction(below).denominator < Fraction(significand).denominator
        last = 2 - Fraction(below if more else significand)
        assert last.numerator == 1
        return cls(last.denominator.bit_length() - 1, more)

    def reached(self, top: Tensor) -> Tensor:
        """Tell of float64 magnitudes above 0 whether the exponent is one more."""
        significand = 2 * torch.frexp(top).mantissa
        edge = 2 - 2.0**-self.ones
        return significand > edge if self.more else significand >= edge

    def scalar(self, top: int) -> bool:
        """Tell it of one integer above 0, digit by digit."""
        digits = f"{top:b}"
        begins = digits[1:].startswith("1" * self.ones)
        return begins and (not self.more or "1" in digits[1 + self.ones :])


@dataclass(frozen=True)
class Signs:
    """Codes that are signs: 1 above a threshold, -1 below its negative, 0 between.

    Args:
        threshold: real. zero: else there is no 0, and 1 begins with 0. scale: of the tensor.
    """

    threshold: float = 0.0
    zero: bool = True
    scale: float = 1.0

    def codes(self, t: Tensor, edge: float) -> Tensor:
        """Return the codes of integers, int64 or float64, in whose unit the threshold is ``edge``."""
        if not self.zero:
            return torch.where(t >= 0, 1, -1)
        edge = float(edge) if t.is_floating_point() else edge
        return (t > edge).to(torch.int64) - (t < -edge).to(torch.int64)

    def scalar(self, t: int, edge: int) -> int:
        """Return the code of one integer: the oracle of :meth:`codes`."""
        if not self.zero:
            return 1 if t >= 0 else -1
        return 1 if t > edge else -1 if -t > edge else 0


@dataclass(frozen=True)
class Grid:
    """Describe a tensor's codes: value = (mantissa - zero) * 2**(exponent - base) * 2**unit * scale.

    A mantissa is the code itself, or what its bit pattern says. Codes that are integers, with a zero of 0, are *plain*:
    units multiply and add these alone; others are decoded before and encoded after.

    Args:
        width: bits of a code. signed: two's complement. low, high: least and greatest code.
        unit: exponent of the integer 1. scaled: a real scale (per tensor or channel) multiplies besides.
        block: elements that share an exponent; 0 where there are no exponents.
        exp_bits: bits of an exponent on the stream. base: least exponent. span: greatest exponent less ``base``.
        zero: code of real zero, a zero point. pattern: how a code is read that is not an integer.
        lift: a block's exponent lies so far below that of its greatest magnitude. rise: where it is one more.
        signs: how results become codes that are signs. scales: how blocks get scales that are no powers of two; in the
            place of an exponent each then has the code of its scale.
        stored: how memories hold integers that such codes stand for.
    """

    width: int
    signed: bool
    low: int
    high: int
    unit: int = 0
    scaled: bool = False
    block: int = 0
    exp_bits: int = 0
    base: int = 0
    span: int = 0
    zero: int = 0
    pattern: Pattern | None = None
    lift: int = 0
    rise: Rise | None = None
    signs: Signs | None = None
    scales: BlockScales | None = None
    stored: Pattern | None = None

    @property
    def raw(self) -> bool:
        """Tell whether a unit leaves its exact integers to a block behind it, which makes such codes."""
        return self.block > 0 or self.pattern is not None or self.signs is not None

    @cached_property
    def plain(self) -> Grid:
        """Return the grid of the integers that the codes stand for."""
        if self.pattern is None:
            return self if not self.zero else self._within(self.low - self.zero, self.high - self.zero)
        if self.scales is not None:
            most, span = self.pattern.most * self.scales.scale.most_digits, self.scales.scale.most_shift
            integers = self._within(-most, most)
            return replace(integers, exp_bits=span.bit_length(), span=span, scales=None, stored=None)
        if not self.pattern.own:
            return self._within(-self.pattern.most, self.pattern.most)
        span = self.span + self.pattern.most_shift
        digits = self._within(-self.pattern.most_digits, self.pattern.most_digits)
        return replace(digits, block=1, exp_bits=max(1, span.bit_length()), span=span)

    def _within(self, low: int, high: int) -> Grid:
        width = signed_width(low, high)
        return replace(self, width=width, signed=True, low=low, high=high, zero=0, pattern=None, stored=self.pattern)

    def decoded(self, code: Code, axis: int = -1) -> Code:
        """Return the codes of :attr:`plain`, blocks along ``axis``."""
        if self.pattern is None:
            return code if not self.zero else Code(code.mantissa - self.zero, code.exponent)
        digits, shift = self.pattern.split(code.mantissa)
        if self.scales is not None:
            assert code.exponent is not None
            factor, exponent = self.scales.scale.split(code.exponent)
            each = factor.repeat_interleave(self.block, axis).narrow(axis, 0, shift.shape[axis])
            return Code((digits << shift) * each, exponent)
        if not self.pattern.own:
            return Code(digits << shift, code.exponent)
        exponent = shift + self.base
        if self.block:
            assert code.exponent is not None
            blocks = code.exponent.repeat_interleave(self.block, axis)
            exponent = shift + blocks.narrow(axis, 0, shift.shape[axis])
        return Code(digits, exponent)

    def each(self, code: Code, axis: int = -1) -> tuple[Grid, Code]:
        """Return the same numbers with an exponent for each element, its block's; blocks lie along ``axis``."""
        assert code.exponent is not None
        exponent = code.exponent.repeat_interleave(self.block, axis).narrow(axis, 0, code.mantissa.shape[axis])
        return replace(self, block=1), Code(code.mantissa, exponent)

    @property
    def reach(self) -> int:
        """Greatest absolute value of an integer, a mantissa shifted by its exponent."""
        plain = self.plain
        return max(-plain.low, plain.high) << plain.span

    @property
    def powers(self) -> bool:
        """Tell whether all integers of a plain grid are powers of two with a sign, or 0."""
        return -1 <= self.low <= self.high <= 1 or (self.stored is not None and self.stored.man == 0)

    @property
    def digits(self) -> int:
        """Greatest absolute value of an integer, in its own last digit where a float64 holds none with its exponent.

        Such integers are few digits far to the left: exact in float64, however great they are.
        """
        plain = self.plain
        most = max(-plain.low, plain.high)
        return most if most << plain.span >= 1 << FLOAT_BITS else most << plain.span

    @property
    def element_bits(self) -> int:
        """Bits of a mantissa after extension to a signed number."""
        return self.width + (not self.signed)

    def integers(self, code: Code, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return mantissa << (exponent - base), blocks along the last axis, exact in ``dtype``."""
        if self.plain is not self:
            return self.plain.integers(self.decoded(code), dtype)
        mantissa = code.mantissa.to(dtype)
        if not self.block:
            return mantissa
        assert code.exponent is not None
        factor = pow2(code.exponent - self.base).to(dtype).repeat_interleave(self.block, -1)
        return mantissa * factor[..., : mantissa.shape[-1]]

    def compared(self, code: Code) -> Tensor:
        """Return :meth:`integers` in float64, exact one by one at any exponent: numbers to compare, not to sum."""
        plain = self.plain
        assert max(-plain.low, plain.high) <= 2**53 and plain.span < 900, "float64 does not hold each"
        return self.integers(code)

    def exponents_per_beat(self, lanes: int) -> int:
        """Return how many exponents travel with a beat of ``lanes`` elements."""
        return max(1, lanes // self.block) if self.block else 0


def signed_width(low: int, high: int) -> int:
    """Return the bits of the smallest two's complement word that holds ``low`` to ``high``."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1


def off_chip(fmt: Format, where: str, why: str) -> UnsupportedOp:
    """Return the refusal of a format that hardware cannot compute with."""
    return UnsupportedOp(f"{where}: format {fmt} {why}")
