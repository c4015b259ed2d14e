"""Fixed point, signed or unsigned: value = code * 2**-frac."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.formats.base import FORMATS, Code, Format, QuantParams, checked, within


@FORMATS.add("fixed")
@dataclass(frozen=True)
class Fixed(Format):
    """Fixed point in ``width`` bits with the binary point left of ``frac`` of them.

    Args:
        width: stored bits, sign included, 1..32.
        frac: fraction bits; may be negative or above ``width``, -64..64.
        signed: two's complement, or unsigned.
    """

    width: int = 8
    frac: int = 4
    signed: bool = True
    grammar: ClassVar[re.Pattern[str]] = re.compile(r"(u?)fixed(\d+)\.(-?\d+)")

    def __post_init__(self) -> None:
        within("fixed", "width", self.width, 1, 32)
        within("fixed", "frac", self.frac, -64, 64)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[2]), int(match[3]), match[1] == "")

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}fixed{self.width}.{self.frac}"

    def code_range(self) -> tuple[int, int]:
        return (-(1 << self.width - 1), (1 << self.width - 1) - 1) if self.signed else (0, (1 << self.width) - 1)

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return QuantParams(axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        low, high = self.code_range()
        return Code((checked(x, self) * 2.0**self.frac).round_().clamp_(low, high).to(torch.int64))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        return code.mantissa.to(torch.float64) * 2.0**-self.frac

    def bits(self, shape: Sequence[int]) -> float:
        return float(self.width)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Frac": self.frac, "Signed": int(self.signed)}
