"""Logarithmic numbers: a sign and a power of two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    Code,
    Compat,
    Format,
    Kernel,
    Layout,
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
from mase.formats.grid import MIDDLE, MOST_INTEGER, Grid, Pattern, off_chip
from mase.formats.minifloat import AUTO

MIDDLE_FLOAT32 = 0x3504F4  # mantissa field of the least float32 above MIDDLE


@FORMATS.add("log")
@dataclass(frozen=True)
class Log(Format):
    """Value (-1)**s * 2**(c - bias) of the code with exponent c: nearest in the logarithm, saturating.

    There is no zero: 0 and -0 become the least positive number.

    Args:
        width: stored bits, sign included, 2..9.
        bias: subtracted from the exponent field, -64..255; by default 2**(width-2) - 1.
        compat: ``mase`` reproduces ``log_quantizer`` of MASE and llm-mixed-q (values only).

    Source: Miyashita, Lee, Murmann, Convolutional Neural Networks using Logarithmic Data Representation, 2016.
    """

    width: int = 4
    bias: int = AUTO  # resolved at construction, so that equal formats compare equal
    compat: Compat = ""
    ebnf: ClassVar[str] = '"log" nat ["b" int]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"log(\d+)(?:b(-?\d+))?")
    words: ClassVar[Words] = compat_words("mase")

    def __post_init__(self) -> None:
        within("log", "width", self.width, 2, 9)
        if self.bias == AUTO:
            object.__setattr__(self, "bias", self._default_bias)
        within("log", "bias", self.bias, -64, 255)
        one_of("log", "compat", self.compat, ("", "mase"))

    @property
    def _default_bias(self) -> int:
        return (1 << self.width - 2) - 1

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        bias = AUTO if match[2] is None else int(match[2])
        return cls(int(match[1]), bias, **cls._options(match))

    def __str__(self) -> str:
        bias = "" if self.bias == self._default_bias else f"b{self.bias}"
        return f"log{self.width}{bias}{self._suffix()}"

    @property
    def exponents(self) -> tuple[int, int]:
        """Return the least and the greatest exponent."""
        return -self.bias, (1 << self.width - 1) - 1 - self.bias

    def code_range(self) -> tuple[int, int]:
        return 0, (1 << self.width) - 1

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return QuantParams(axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return Code(self.codes(checked(x, self)))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        return self.reals(code.mantissa)

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        return self.reals(self.codes(x))

    def codes(self, x: Tensor) -> Tensor:
        """Return the bit patterns, int64, of float64 values."""
        floor = floor_log2(x.abs())
        up = x.abs() >= pow2(floor.clamp(-1000, 1000)) * MIDDLE
        exponent = (floor + up).clamp_(*self.exponents)
        return exponent + self.bias + ((x < 0).to(torch.int64) << self.width - 1)

    def reals(self, codes: Tensor) -> Tensor:
        """Return the float64 values of bit patterns."""
        size = pow2((codes & (1 << self.width - 1) - 1) - self.bias)
        return torch.where(codes >> self.width - 1 == 1, -size, size)

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        top = torch.tensor(2.0 ** self.exponents[1], dtype=torch.float64, device=x.device)
        return -top, top

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        return float(self.width)

    def layout(self) -> Layout:
        return Layout((("sign", 1), ("exponent", self.width - 1)))

    def values(self) -> Tensor:
        return self.reals(torch.arange(1 << self.width))

    def sv_params(self) -> Mapping[str, int]:
        return {"ExpBits": self.width - 1, "Bias": self.bias}

    def grid(self, params: QuantParams, where: str) -> Grid:
        if self.compat:
            raise off_chip(self, where, f"follows {self.compat}; hardware follows the specification")
        pattern = Pattern(self.width - 1, 0, (1 << self.width - 1) - 1, subnormal=False)
        pattern = replace(pattern, own=pattern.most.bit_length() + 1 > MOST_INTEGER)
        return Grid(self.width, False, *self.code_range(), unit=-self.bias, pattern=pattern)

    def _emulate(self, x: Tensor, params: QuantParams) -> Tensor | None:
        if self.compat != "mase":
            return None
        return compat.mase_log(checked(x, self).to(torch.float32), self.width - 1, torch.tensor(float(self.bias)))

    def _kernel(self, params: QuantParams) -> Kernel | None:
        def kernel(x: Tensor, out: Tensor, scratch: Scratch) -> bool:
            self.round_(torch.add(x, 0.0, out=out), scratch)  # -0 + 0 is +0
            return not bool(torch.isnan(x.sum()))  # opposite infinities look the same, and are safe on the exact way

        return kernel if self.fast and not self.compat else None

    @property
    def fast(self) -> bool:
        """Tell whether ``round_`` is exact: all numbers of the format are normal float32 numbers."""
        return self.exponents[0] >= -126 and self.exponents[1] <= 127

    def round_(self, v: Tensor, scratch: Scratch) -> None:
        """Round contiguous float32 to the numbers of the format, in place; takes buffer 2.

        Args:
            v: without NaN and -0.
        """
        bits = v.view(torch.int32)
        sign = torch.bitwise_and(bits, -(1 << 31), out=scratch.take(2, v.shape).view(torch.int32))
        least, most = (exponent + 127 << 23 for exponent in self.exponents)
        bits.bitwise_and_((1 << 31) - 1).clamp_(max=FIELD)  # infinity must not carry beyond its field
        bits.add_((1 << 23) - MIDDLE_FLOAT32).bitwise_and_(FIELD).clamp_(least, most).bitwise_or_(sign)
