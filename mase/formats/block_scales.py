"""Blocks that share a scale of few bits, as NVFP4 has it: codes of scales and elements, by comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mase.formats.grid import Pattern

BELOW_INFINITY = 0x7F7FFFFF  # bit pattern of the greatest float32
DIGITS, LEAST_EXPONENT = 24, -149  # of float32
Float32 = np.float32


class Bound(NamedTuple):
    """Real numbers from ``value`` on; ``reached``: the value itself is one of them."""

    value: Fraction
    reached: bool


@dataclass(frozen=True)
class BlockScales:
    """How codes come about that are elements of a block times a scale of the block times one of the tensor.

    The scale of a block is a step function of its greatest magnitude, and so is an element of its own magnitude: they
    never fall. So both are found by comparison with the least numbers that have each code, and nothing is divided.

    Args:
        tensor: scale of the tensor, a float32. element, scale: patterns of both. element_unit, scale_unit: exponents of
            their least numbers above 0. least: least code of a scale that is given.
        scales: bounds of the greatest magnitude of a block for each code of a scale above ``least``.
        elements: for each code of a scale from ``least`` on, bounds of a magnitude for each number above 0.
    """

    tensor: float
    element: Pattern
    element_unit: int
    scale: Pattern
    scale_unit: int
    least: int
    scales: tuple[Bound, ...] = field(compare=False, repr=False)
    elements: tuple[tuple[Bound, ...], ...] = field(compare=False, repr=False)

    @property
    def most(self) -> float:
        """Greatest number, over the scale of the tensor."""
        return self._most * float(np.ldexp(np.float64(self.scale.most), self.scale_unit))

    def scalar(self, block: Sequence[Fraction]) -> tuple[list[int], int]:
        """Return codes of elements, and of their scale, from the definition in float32: an oracle of the bounds."""
        sizes, tensor, most = [_float32(abs(v)) for v in block], Float32(self.tensor), self._most
        found = Float32(max(sizes) / Float32(most) / tensor)
        code = max(self.scale.scalar(*_digits(found, self.scale_unit)), self.least)
        step = Float32(np.ldexp(np.float64(_reading(self.scale, code)), self.scale_unit))
        inverse = Float32(1) / tensor / step
        codes = []
        for v, size in zip(block, sizes, strict=True):
            number = self.element.scalar(*_digits(min(size * inverse, Float32(most)), self.element_unit))
            codes.append(number + (1 << self.element.width - 1) * (v < 0 and number > 0))
        return codes, code

    @property
    def _most(self) -> float:
        return float(np.ldexp(np.float64(self.element.most), self.element_unit))


def bounds(codes: Callable[[Tensor], Tensor], wanted: Tensor) -> tuple[Bound, ...]:
    """Return the real numbers whose codes are ``wanted`` or more, in order of its elements.

    Args:
        codes: of float32 that are not negative, shaped as ``wanted``; never falls.
    """
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, BELOW_INFINITY)
    while bool((low < high).any()):
        middle = (low + high) // 2
        reached = codes(middle.to(torch.int32).view(torch.float32)) >= wanted
        low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
    return tuple(_rounds_to(pattern) for pattern in high.flatten().tolist())


def _rounds_to(pattern: int) -> Bound:
    """Return the real numbers that become this float32 or more, to nearest even: from the middle below it on."""
    return Bound((_exact(pattern - 1) + _exact(pattern)) / 2, pattern % 2 == 0)


def _exact(pattern: int) -> Fraction:
    return Fraction(float(np.array(pattern, np.int32).view(Float32)))


def _float32(v: Fraction) -> np.float32:
    """Return the float32 nearest to a number above 0, or 0; saturating."""
    if not v:
        return Float32(0)
    floor = v.numerator.bit_length() - v.denominator.bit_length()
    unit = max(floor - (v < Fraction(2) ** floor) - DIGITS + 1, LEAST_EXPONENT)
    digits = round(v / Fraction(2) ** unit)
    return min(np.finfo(Float32).max, Float32(np.ldexp(np.float64(digits), min(unit, 200))))


def _digits(v: np.float32, unit: int) -> tuple[int, int]:
    """Return a float32 as t / 2**down units of a pattern."""
    digits, divisor = float(v).as_integer_ratio()
    return digits, divisor.bit_length() - 1 + unit


def _reading(pattern: Pattern, code: int) -> int:
    digits, shift = pattern.split(torch.tensor(code))
    return int(digits) << int(shift)
