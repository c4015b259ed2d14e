"""Integers with a real scale: value = scale * (code - zero_point)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import FORMATS, Code, Format, QuantParams, checked, floor_log2, pow2, within


@FORMATS.add("int")
@dataclass(frozen=True)
class Int(Format):
    """Symmetric integers: codes -(2**(width-1) - 1) .. 2**(width-1) - 1, one scale a tensor or a channel.

    Args:
        width: stored bits, 2..16.
        channel: one scale for each index of the channel axis (text suffix ``c``), else one for the tensor.
        power: scales are powers of two (text suffix ``p``), the least that does not clip.
    """

    width: int = 8
    channel: bool = False
    power: bool = False
    grammar: ClassVar[re.Pattern[str]] = re.compile(r"int(\d+)(c?)(p?)")

    def __post_init__(self) -> None:
        within("int", "width", self.width, 2, 16)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[1]), match[2] == "c", match[3] == "p")

    def __str__(self) -> str:
        return f"int{self.width}{'c' if self.channel else ''}{'p' if self.power else ''}"

    def code_range(self) -> tuple[int, int]:
        return -(1 << self.width - 1) + 1, (1 << self.width - 1) - 1

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        wide = checked(x, self).abs()
        if not bool(torch.isfinite(wide).all()):
            raise FormatError(f"{self}: data to calibrate on holds infinity; finite values are needed")
        top = wide.movedim(axis, 0).reshape(x.shape[axis], -1).amax(1) if self.channel else wide.max()
        scale = torch.where(top > 0, top, 1.0) / self.code_range()[1]
        if self.power:
            exponent = floor_log2(scale)
            scale = pow2(exponent + (scale > pow2(exponent)))
        return QuantParams(scale=scale, axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        low, high = self.code_range()
        return Code((checked(x, self) / self.scale(params, x.ndim)).round_().clamp_(low, high).to(torch.int64))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        if params is None:
            raise FormatError(f"{self}: decode needs the scale; pass the QuantParams that encode used")
        return code.mantissa.to(torch.float64) * self.scale(params, code.mantissa.ndim)

    def scale(self, params: QuantParams, ndim: int) -> Tensor:
        """Return the scale shaped so that it broadcasts against a tensor of ``ndim`` axes."""
        if params.scale is None:
            raise FormatError(f"{self}: the parameters hold no scale; calibrate first")
        if not self.channel:
            return params.scale
        shape = [1] * ndim
        shape[params.axis] = -1
        return params.scale.reshape(shape)

    def bits(self, shape: Sequence[int]) -> float:
        return float(self.width)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Signed": 1}
