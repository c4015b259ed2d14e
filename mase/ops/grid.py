"""Formats as integer arithmetic sees them: every value is an integer times one unit, known before any data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mase.errors import UnsupportedOp
from mase.formats import Code, Format, QuantParams
from mase.formats.base import floor_log2, pow2
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.formats.mxint import MXInt


@dataclass(frozen=True)
class Grid:
    """Describe a tensor's codes: value = mantissa * 2**(exponent - base) * 2**unit * scale.

    Args:
        width: bits of a mantissa. signed: two's complement. low, high: least and greatest mantissa.
        unit: exponent of the integer 1. scaled: a real scale (per tensor or channel) multiplies besides.
        block: elements that share an exponent; 0 where there are no exponents.
        exp_bits: bits of an exponent on the stream. base: least exponent. span: greatest exponent less ``base``.
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

    @classmethod
    def of(cls, fmt: Format, params: QuantParams, where: str) -> Grid:
        """Build from a format and its parameters.

        Raises:
            UnsupportedOp: the format has no place on chip yet.
        """
        if reason := _refusal(fmt):
            raise UnsupportedOp(f"{where}: format {fmt} {reason}")
        low, high = fmt.code_range()
        if isinstance(fmt, Fixed):
            return cls(fmt.width, fmt.signed, low, high, unit=-fmt.frac)
        if isinstance(fmt, Int):
            if fmt.power and not fmt.channel:
                assert params.scale is not None
                return cls(fmt.width, True, low, high, unit=int(floor_log2(params.scale.double())))
            return cls(fmt.width, True, low, high, scaled=True)
        if isinstance(fmt, MXInt):
            base = fmt.base(params)
            return cls(
                fmt.width, True, low, high, base - (fmt.width - 2), False, fmt.block, fmt.exp_bits, base, fmt.span
            )
        raise AssertionError(fmt)

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


def activation_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of a tensor that travels on a stream.

    Raises:
        UnsupportedOp: as :meth:`Grid.of`; or the format has a scale for each channel.
    """
    if params.scale is not None and params.scale.numel() > 1:
        raise UnsupportedOp(f"{where}: {fmt} has a scale a channel; activations take one scale a tensor")
    return Grid.of(fmt, params, where)


def produced_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of a tensor that a node rounds.

    Raises:
        UnsupportedOp: as :func:`activation_grid`; or the format has a rounding of its own.
    """
    mode = getattr(fmt, "rounding", "even")
    if mode != "even":
        raise UnsupportedOp(f"{where}: format {fmt} rounds by {mode}; on chip the node's field rounding decides")
    return activation_grid(fmt, params, where)


def _refusal(fmt: Format) -> str:
    """Say what hardware cannot do about a format; nothing where it can."""
    if isinstance(fmt, Fixed):
        return "wraps; hardware saturates" if fmt.overflow == "wrap" else ""
    if isinstance(fmt, Int):
        if fmt.zero != "none":
            return f"has a {'zero point' if fmt.zero == 'int' else 'real offset'}; hardware takes symmetric integers"
        if fmt.full:
            return "has a scale with a sign; hardware takes positive scales, so no full range"
        return "has a scale for each of several groups; hardware takes one a tensor or a channel" if fmt.group else ""
    if isinstance(fmt, MXInt):
        if fmt.outer:
            return "has blocks over several axes; hardware takes blocks along one axis"
        if fmt.nan != "error":
            return "encodes NaN; none travels on chip"
        return f"follows {fmt.compat}; hardware follows the specification" if fmt.compat else ""
    return "has no hardware; allowed are fixed, int and mxint"


def check_lanes(where: str, grid: Grid, lanes: int) -> None:
    """Raise unless the lanes divide the block or the block divides the lanes (docs/arithmetic.md, 7)."""
    if grid.block and lanes % grid.block and grid.block % lanes:
        raise UnsupportedOp(
            f"{where}: {lanes} lanes do not fit blocks of {grid.block}; "
            f"allowed are divisors and multiples of {grid.block}"
        )


def signed_width(low: int, high: int) -> int:
    """Return the bits of the smallest two's complement word that holds ``low`` to ``high``."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1
