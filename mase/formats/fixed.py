"""Fixed point, signed or unsigned: value = code * 2**-frac."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import (
    FORMATS,
    ROUNDING_WORDS,
    Code,
    Format,
    Kernel,
    Layout,
    QuantParams,
    Words,
    checked,
    one_of,
    text_form,
    within,
)
from mase.formats.chunks import Scratch
from mase.formats.grid import Grid, off_chip
from mase.formats.rounding import MODES, Rounding, rounded
from mase.formats.whole import whole

MAX_WIDTH = 32
DIGITS = 53  # of a float64
SMALL = 2.0**-900  # less than half a code, and more than 0, in any unit
FAST_WIDTH = 22  # bits of a code that ``saturating`` rounds right


@FORMATS.add("fixed")
@dataclass(frozen=True)
class Fixed(Format):
    """Fixed point in ``width`` bits with the binary point left of ``frac`` of them.

    Args:
        width: stored bits, sign included, 1..32.
        frac: fraction bits; may be negative or above ``width``, -64..64.
        signed: two's complement, or unsigned.
        rounding: what happens to bits below the last.
        overflow: ``saturate``, or ``wrap`` modulo 2**width (infinity is then refused).
    """

    width: int = 8
    frac: int = 4
    signed: bool = True
    rounding: Rounding = "even"
    overflow: Literal["saturate", "wrap"] = "saturate"
    calibrated: ClassVar[bool] = False
    ebnf: ClassVar[str] = '["u"] "fixed" nat "." int'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"(u?)fixed(\d+)\.(-?\d+)")
    words: ClassVar[Words] = {**ROUNDING_WORDS, "wrap": ("overflow", "wrap")}

    def __post_init__(self) -> None:
        within("fixed", "width", self.width, 1, MAX_WIDTH)
        within("fixed", "frac", self.frac, -64, 64)
        one_of("fixed", "rounding", self.rounding, MODES)
        one_of("fixed", "overflow", self.overflow, ("saturate", "wrap"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[2]), int(match[3]), match[1] == "", **cls._options(match))

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}fixed{self.width}.{self.frac}{self._suffix()}"

    def code_range(self) -> tuple[int, int]:
        return (-(1 << self.width - 1), (1 << self.width - 1) - 1) if self.signed else (0, (1 << self.width) - 1)

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return QuantParams(axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        seed = params.seed if params is not None else 0
        return Code(whole(self._codes(checked(x, self), seed)))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        return code.mantissa.to(torch.float64) * 2.0**-self.frac

    def grid(self, params: QuantParams, where: str) -> Grid:
        if self.overflow == "wrap":
            raise off_chip(self, where, "wraps; hardware saturates")
        return Grid(self.width, self.signed, *self.code_range(), unit=-self.frac)

    def _codes(self, x: Tensor, seed: int) -> Tensor:
        """Return codes of float64 ``x``: float64, or int64 where they wrap."""
        if self.frac < 0:  # what is so small that it would become 0 rounds as any other small number
            x = torch.where((x != 0) & (x.abs() < SMALL), torch.copysign(torch.full_like(x, SMALL), x), x)
        code = rounded(x * 2.0**self.frac, self.rounding, seed)
        return code.clamp_(*self.code_range()) if self.overflow == "saturate" else self._wrapped(x, code)

    def _wrapped(self, x: Tensor, code: Tensor) -> Tensor:
        """Return int64 codes modulo 2**width; values too large to have a fraction count by the digits of ``x``."""
        if bool(torch.isinf(x).any()):
            raise FormatError(f"{self}: data holds infinity, which cannot wrap; finite values are needed")
        mantissa, exponent = torch.frexp(x)
        shift = exponent.to(torch.int64) + (self.frac - DIGITS)  # x * 2**frac = digits * 2**shift
        word, mask, low = (1 << MAX_WIDTH) - 1, (1 << self.width) - 1, self.code_range()[0]
        large = (whole(mantissa * 2.0**DIGITS) & word) << shift.clamp(0, MAX_WIDTH - 1)
        large = torch.where(shift < MAX_WIDTH, large, 0)
        small = whole(torch.where(shift > 0, 0.0, code))
        return (torch.where(shift > 0, large, small) - low & mask) + low

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        return (self._codes(x, params.seed).to(torch.float64) + 0.0) * 2.0**-self.frac  # -0 + 0 is +0

    def _kernel(self, params: QuantParams) -> Kernel | None:
        if self.width > FAST_WIDTH or self.rounding != "even" or self.overflow != "saturate":
            return None
        return saturating(*self.code_range(), 2.0**-self.frac)

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        low, high = (code * 2.0**-self.frac for code in self.code_range())
        bounds = (low, high) if self.overflow == "saturate" else (-torch.inf, torch.inf)  # wrapping has slope 1
        return torch.tensor(bounds[0], dtype=torch.float64), torch.tensor(bounds[1], dtype=torch.float64)

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        return float(self.width)

    def layout(self) -> Layout:
        sign = int(self.signed)
        fraction = min(max(self.frac, 0), self.width - sign)
        named = (("sign", sign), ("integer", self.width - sign - fraction), ("fraction", fraction))
        return Layout(tuple((name, bits) for name, bits in named if bits))

    def values(self) -> Tensor:
        low, high = self.code_range()
        return torch.arange(low, high + 1, dtype=torch.float64) * 2.0**-self.frac

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Frac": self.frac, "Signed": int(self.signed)}


def saturating(low: int, high: int, unit: float) -> Kernel:
    """Return a kernel that rounds to multiples of a power of two between ``low`` and ``high`` of it.

    Adding 1.5 * 2**23 units rounds to nearest even, because float32 has no bits below the unit there; it needs
    magnitudes of at most 2**22 units.
    """
    magic = 1.5 * 2.0**23 * unit

    def kernel(x: Tensor, out: Tensor, _: Scratch) -> bool:
        torch.clamp(x, low * unit, high * unit, out=out).add_(magic).sub_(magic)
        return not bool(torch.isnan(out.sum()))

    return kernel
