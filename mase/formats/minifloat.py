"""Small floating point: sign, exponent, mantissa, with subnormals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    NAN_WORDS,
    ROUNDING_WORDS,
    Code,
    Compat,
    Kernel,
    Layout,
    NanPolicy,
    QuantParams,
    Words,
    checked,
    compat_words,
    floor_log2,
    one_of,
    pow2,
    refuse_codes,
    text_form,
    within,
)
from mase.formats.blocks import FIELD
from mase.formats.chunks import Scratch
from mase.formats.grid import MOST_INTEGER, Grid, Pattern, off_chip
from mase.formats.rounding import MODES, Rounding, rounded
from mase.formats.scaled import FLOAT32, PER, Per, ScaledFormat
from mase.formats.whole import whole

AUTO = -(1 << 30)  # a bias that follows from the size
LEAST_SCALE = 2.0**-149  # least float32
Special = Literal["auto", "ieee", "fn", "fnuz", "finite"]
SPECIALS: tuple[Special, ...] = ("ieee", "fn", "fnuz", "finite")
OCP_SPECIAL: Mapping[tuple[int, int], Special] = {(4, 3): "fn", (5, 2): "ieee"}  # the other OCP elements are finite


@FORMATS.add("minifloat")
@dataclass(frozen=True)
class Minifloat(ScaledFormat):
    """Value (-1)**s * 2**(max(c, 1) - bias) * ((c > 0) + t / 2**man): fields s (sign), c (exponent), t (mantissa).

    Codes are stored bit patterns, sign on top, 0 .. 2**(1 + exp + man) - 1. Zero has two signs unless ``fnuz``.

    Args:
        exp: exponent bits, 1..8.
        man: mantissa bits, 0..23.
        bias: subtracted from the exponent field, -64..192; by default 2**(exp-1) - 1, one more for ``fnuz``.
        special: what the top exponent means. ``ieee``: infinity and NaN. ``fn``: numbers, all ones is NaN. ``fnuz``:
            numbers, the code of -0 is NaN. ``finite``: numbers. By default what OCP says of the size: e4m3 is ``fn``,
            e5m2 ``ieee``, all others ``finite``.
        rounding: to the values that the format has.
        overflow: ``saturate`` at the greatest number (infinity too); ``special`` gives infinity, or NaN without one.
        nan: ``error`` refuses NaN; ``encode`` gives the NaN code.
        per: who shares a real scale that maps the greatest magnitude to the greatest number: ``none``, ``tensor`` (text
            suffix ``t``) or ``channel`` (text suffix ``c``). Scales are float32.
        compat: ``mase`` reproduces ``minifloat_ieee`` (values only).

    Source: OCP 8-bit Floating Point Specification v1.0; OCP Microscaling Formats v1.0, section 5.3.
    """

    exp: int = 4
    man: int = 3
    bias: int = AUTO  # resolved at construction, so that equal formats compare equal
    special: Special = "auto"  # likewise
    rounding: Rounding = "even"
    overflow: Literal["saturate", "special"] = "saturate"
    nan: NanPolicy = "error"
    per: Per = "none"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"e" nat "m" nat ["b" int] ["ieee" | "fn" | "fnuz" | "finite"] ["t" | "c"]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"e(\d+)m(\d+)(?:b(-?\d+))?(ieee|fnuz|fn|finite)?([tc]?)")
    words: ClassVar[Words] = {**ROUNDING_WORDS, "inf": ("overflow", "special"), **NAN_WORDS, **compat_words("mase")}

    def __post_init__(self) -> None:
        within("minifloat", "exp", self.exp, 1, 8)
        within("minifloat", "man", self.man, 0, 23)
        if self.special == "auto":
            object.__setattr__(self, "special", OCP_SPECIAL.get((self.exp, self.man), "finite"))
        if self.bias == AUTO:
            object.__setattr__(self, "bias", self._default_bias)
        within("minifloat", "bias", self.bias, -64, 192)
        one_of("minifloat", "special", self.special, SPECIALS)
        one_of("minifloat", "rounding", self.rounding, MODES)
        one_of("minifloat", "overflow", self.overflow, ("saturate", "special"))
        one_of("minifloat", "nan", self.nan, ("error", "encode"))
        one_of("minifloat", "per", self.per, PER)
        one_of("minifloat", "compat", self.compat, ("", "mase"))
        if self.special == "finite" and (self.nan != "error" or self.overflow != "saturate"):
            raise FormatError(
                f"minifloat: special is 'finite', so {self} has no code for NaN or infinity; allowed is none"
            )
        if self.special == "fn" and self.exp + self.man < 2:
            raise FormatError("minifloat: the only number of e1m0fn is 0; at least 2 bits beside the sign are needed")
        if self.special == "ieee" and (self.exp < 2 or self.man < 1):
            found = f"e{self.exp}m{self.man}"
            raise FormatError(f"minifloat: special is 'ieee' and the size {found}; allowed is exp >= 2 and man >= 1")

    @property
    def _default_bias(self) -> int:
        return (1 << self.exp - 1) - (self.special != "fnuz")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        bias = AUTO if match[3] is None else int(match[3])
        special: Any = match[4] or "auto"  # Any: the grammar has it one of the names
        fields = {"per": {"": "none", "t": "tensor", "c": "channel"}[match[5]], **cls._options(match)}
        return cls(int(match[1]), int(match[2]), bias, special, **fields)

    def __str__(self) -> str:
        special = "" if self.special == OCP_SPECIAL.get((self.exp, self.man), "finite") else self.special
        bias = "" if self.bias == self._default_bias else f"b{self.bias}"
        return f"e{self.exp}m{self.man}{bias}{special}{'' if self.per == 'none' else self.per[0]}{self._suffix()}"

    @cached_property
    def width(self) -> int:
        """Return the stored bits of a code."""
        return 1 + self.exp + self.man

    @cached_property
    def top_code(self) -> int:
        """Return the code of the greatest number."""
        reserved = {"ieee": 1 << self.man, "fn": 1, "fnuz": 0, "finite": 0}[self.special]
        return (1 << self.width - 1) - 1 - reserved

    @cached_property
    def top(self) -> float:
        """Return the greatest number."""
        return float(self._magnitude(torch.tensor(self.top_code)))

    @cached_property
    def top_exponent(self) -> int:
        """Return the exponent of the greatest number."""
        return math.frexp(self.top)[1] - 1

    @property
    def least_exponent(self) -> int:
        """Return the exponent of the least normal number."""
        return 1 - self.bias

    def code_range(self) -> tuple[int, int]:
        return 0, (1 << self.width) - 1

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        if self.per == "none":
            return QuantParams(axis=axis)
        low, high = self._extremes(x, axis)
        top = torch.maximum(-low, high).clamp(max=FLOAT32.max).to(torch.float32)
        scale = (top / self.top).clamp(LEAST_SCALE, FLOAT32.max)  # never 0, never infinite
        return QuantParams(torch.where(top > 0, scale, 1.0).to(torch.float64), axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return super().encode(x, params)

    @property
    def _sharing(self) -> Per:
        return self.per

    def _ends(self) -> tuple[int, int]:
        return (1 << self.width - 1) + self.top_code, self.top_code

    def _codes(self, x: Tensor, spread: QuantParams) -> Tensor:
        return self.codes(x if spread.scale is None else x / spread.scale, spread.seed)

    def _reals(self, codes: Tensor, spread: QuantParams) -> Tensor:
        return self.reals(codes) if spread.scale is None else self.reals(codes) * spread.scale

    def _emulate(self, x: Tensor, params: QuantParams) -> Tensor | None:
        if self.compat != "mase":
            return None
        bias = torch.tensor(float(self.bias))
        return compat.mase_minifloat(checked(x, self).to(torch.float32), self.exp, self.man, bias)

    def codes(self, x: Tensor, seed: int = 0) -> Tensor:
        """Return the bit patterns, int64, of float64 values."""
        exponent, nan = floor_log2(x.abs()).clamp_(self.least_exponent, 1000), torch.isnan(x)
        # the integer |x| / 2**(exponent - man) carries into the exponent field by itself when it rounds up
        digits = rounded(x * pow2(self.man - exponent), self.rounding, seed).abs_().masked_fill_(nan, 0.0)
        number = whole(digits.clamp_(max=2.0 ** (self.man + 1))) + (exponent - self.least_exponent << self.man)
        number = torch.where(number > self.top_code, self._overflow_code(x), number)
        return self._signed(number, torch.signbit(x), nan)

    def reals(self, codes: Tensor) -> Tensor:
        """Return the float64 values of bit patterns."""
        sign = codes >> self.width - 1 & 1
        number = codes & (1 << self.width - 1) - 1
        value = self._magnitude(number)
        if self.special == "ieee":
            value = torch.where(number == self.top_code + 1, torch.inf, value)
        if self.special in ("ieee", "fn"):
            value = torch.where(number > self.top_code + (self.special == "ieee"), torch.nan, value)
        value = torch.where(sign == 1, -value, value)
        return torch.where((sign == 1) & (number == 0), torch.nan, value) if self.special == "fnuz" else value

    def _magnitude(self, number: Tensor) -> Tensor:
        exponent = number >> self.man
        digits = (number & (1 << self.man) - 1) + ((exponent > 0).to(torch.int64) << self.man)
        return digits.to(torch.float64) * pow2(exponent.clamp(min=1) - self.bias - self.man)

    def _overflow_code(self, x: Tensor) -> Tensor:
        beyond = {
            "ieee": self.top_code + 1,
            "fn": self.top_code + 1,
            "fnuz": 1 << self.width - 1,
            "finite": self.top_code,
        }
        return torch.tensor(self.top_code if self.overflow == "saturate" else beyond[self.special], device=x.device)

    def _signed(self, number: Tensor, negative: Tensor, nan: Tensor) -> Tensor:
        sign = 1 << self.width - 1
        if self.special == "fnuz":
            number = torch.where(nan, sign, number)
            return torch.where(negative & (number > 0) & (number < sign), number + sign, number)
        nan_code = {"ieee": self.top_code + 1 + (1 << max(self.man - 1, 0)), "fn": self.top_code + 1, "finite": 0}[
            self.special
        ]
        return torch.where(nan, nan_code, number) + negative * sign

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        sizes = list(shape) or [1]
        count = {"none": 0, "tensor": 1, "channel": sizes[axis]}[self.per]
        return self.width + 32 * count / max(1, math.prod(sizes))

    def layout(self) -> Layout:
        named = (("sign", 1), ("exponent", self.exp), ("mantissa", self.man))
        element = tuple((name, bits) for name, bits in named if bits)
        return Layout(element) if self.per == "none" else Layout(element, (("scale", 32),), self.per)

    def values(self) -> Tensor:
        return self.reals(torch.arange(1 << self.width))

    def sv_params(self) -> Mapping[str, int]:
        return {"ExpBits": self.exp, "ManBits": self.man, "Bias": self.bias, "Special": SPECIALS.index(self.special)}

    def grid(self, params: QuantParams, where: str) -> Grid:
        if self.nan != "error" or self.overflow != "saturate":
            raise off_chip(self, where, "encodes NaN or infinity; neither travels on chip")
        if self.compat:
            raise off_chip(self, where, f"follows {self.compat}; hardware follows the specification")
        if self.per != "none" and params.scale is None:
            raise off_chip(self, where, "has no scale")
        return replace(self.element_grid(0), scaled=self.per != "none")

    def element_grid(self, unit: int) -> Grid:
        """Return the grid of numbers times 2**unit."""
        pattern = Pattern(self.exp, self.man, self.top_code)
        own = pattern.most.bit_length() + 1 > MOST_INTEGER
        return Grid(
            self.width,
            False,
            *self.code_range(),
            unit=unit + self.least_exponent - self.man,
            pattern=replace(pattern, own=own),
        )

    def _kernel(self, params: QuantParams) -> Kernel | None:
        def kernel(x: Tensor, out: Tensor, scratch: Scratch) -> bool:
            self.round_(out.copy_(x), scratch)
            return not bool(torch.isnan(out.sum()))

        return kernel if self.fast and self.per == "none" else None

    @cached_property
    def fast(self) -> bool:
        """Tell whether ``round_`` is exact: nearest even, saturating, all its intermediate values float32 numbers."""
        fits = self.man <= 21 and self.least_exponent >= -126 and self.top_exponent + 24 - self.man <= 127
        return fits and self.rounding == "even" and self.overflow == "saturate" and not self.compat

    def round_(self, v: Tensor, scratch: Scratch) -> None:
        """Round contiguous float32 to the numbers of the format, in place; NaN stays NaN. Takes buffers 2 and 3.

        Adding 1.5 * 2**23 units of the last place rounds to that place, because float32 then has no bits below it; the
        unit comes from the exponent bits of each element.
        """
        power, rest = scratch.take(2, v.shape), scratch.take(3, v.shape)
        v.clamp_(-self.top, self.top)
        bits = torch.bitwise_and(v.view(torch.int32), FIELD, out=power.view(torch.int32))
        power.clamp_(min=2.0**self.least_exponent)
        magic = 1.5 * 2.0 ** (23 - self.man)
        torch.add(v, power, alpha=magic, out=rest).sub_(power, alpha=magic)
        if self.special == "fnuz":
            v.copy_(rest)
            return
        torch.bitwise_and(v.view(torch.int32), -(1 << 31), out=bits)  # the sign of a zero is lost by the addition
        torch.bitwise_or(rest.view(torch.int32), bits, out=v.view(torch.int32))
