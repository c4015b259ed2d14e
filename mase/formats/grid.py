"""Formats as integer arithmetic sees them: every value is an integer times one unit, known before any data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mase.errors import UnsupportedOp
from mase.formats.base import Code, Format, pow2


@dataclass(frozen=True)
class Grid:
    """Describe a tensor's codes: value = (mantissa - zero) * 2**(exponent - base) * 2**unit * scale.

    Args:
        width: bits of a mantissa. signed: two's complement. low, high: least and greatest mantissa.
        unit: exponent of the integer 1. scaled: a real scale (per tensor or channel) multiplies besides.
        block: elements that share an exponent; 0 where there are no exponents.
        exp_bits: bits of an exponent on the stream. base: least exponent. span: greatest exponent less ``base``.
        zero: mantissa of real zero, a zero point.
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

    @property
    def reach(self) -> int:
        """Greatest absolute value of an integer, a mantissa shifted by its exponent."""
        return max(-self.low, self.high) << self.span

    @property
    def element_bits(self) -> int:
        """Bits of a mantissa after extension to a signed number."""
        return self.width + (not self.signed)

    def integers(self, code: Code, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return mantissa << (exponent - base), blocks along the last axis, exact in ``dtype``."""
        mantissa = code.mantissa.to(dtype)
        if not self.block:
            return mantissa
        assert code.exponent is not None
        factor = pow2(code.exponent - self.base).to(dtype).repeat_interleave(self.block, -1)
        return mantissa * factor[..., : mantissa.shape[-1]]

    def exponents_per_beat(self, lanes: int) -> int:
        """Return how many exponents travel with a beat of ``lanes`` elements."""
        return max(1, lanes // self.block) if self.block else 0


def off_chip(fmt: Format, where: str, why: str) -> UnsupportedOp:
    """Return the refusal of a format that hardware cannot compute with."""
    return UnsupportedOp(f"{where}: format {fmt} {why}")
