"""Binary: a sign."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.formats.base import FORMATS, Code, Constants, Layout, QuantParams, Words, checked, one_of, text_form
from mase.formats.grid import Grid, Signs, off_chip
from mase.formats.scaled import FLOAT32, PER, Per, ScaledFormat
from mase.formats.scales import SCALE_BITS, ScaleType, round_scale

STORED: tuple[ScaleType, ...] = ("fp32", "fp16", "bf16")
PER_LETTERS: Mapping[str, Per] = {"": "tensor", "c": "channel", "u": "none"}


class SignFormat(ScaledFormat):
    """Codes around zero times the mean of magnitudes: what binary and ternary share."""

    per: Per
    scale_type: ScaleType = "fp32"
    divides: ClassVar[bool] = False

    @property
    def _sharing(self) -> Per:
        return self.per

    def _ends(self) -> tuple[int, int]:
        return -1, 1

    def code_range(self) -> tuple[int, int]:
        return -1, 1

    def _reals(self, codes: Tensor, spread: QuantParams) -> Tensor:
        values = codes.to(torch.float64)
        return values if spread.scale is None else values * spread.scale + 0.0  # -0 + 0 is +0

    def _rows(self, x: Tensor, axis: int) -> Tensor:
        """Return magnitudes, float64 ``[scales, elements]``."""
        size = checked(x, self).abs()
        if self.per != "channel" or x.ndim == 0:
            return size.reshape(1, x.numel())
        return size.movedim(axis, 0).flatten(1) if x.ndim > 1 else size.unsqueeze(1)

    def _shaped(self, shared: Tensor) -> Tensor:
        return shared if self.per == "channel" else shared.reshape(())

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        sizes = list(shape) or [1]
        count = {"none": 0, "tensor": 1, "channel": sizes[axis]}[self.per]
        shared = SCALE_BITS[self.scale_type] * count
        return sum(bits for _, bits in self.layout().element) + shared / max(1, math.prod(sizes))

    def grid(self, params: QuantParams, where: str) -> Grid:
        if self.per != "none" and params.scale is None:
            raise off_chip(self, where, "has no scale")
        return Grid(2, True, -1, 1, scaled=self.per != "none", signs=self._signs(params))

    @abstractmethod
    def _signs(self, params: QuantParams) -> Signs:
        """Return where results become which code."""

    def constants(self, x: Tensor, params: QuantParams, where: str) -> Constants:
        grid, code = self.grid(params, where), self.encode(x, params)
        if not grid.scaled:
            return Constants(grid, code, None)
        scale = self._spread(params, x).scale
        assert params.scale is not None
        assert scale is not None
        some = params.scale[params.scale > 0]  # what a scale of 0 weighs is 0, under any scale
        other = torch.where(params.scale > 0, params.scale, some.max() if some.numel() else 1.0)
        return Constants(grid, Code(code.mantissa * (scale > 0)), other)

    def _shared_fields(self) -> tuple[tuple[tuple[str, int], ...], str]:
        return ((), "") if self.per == "none" else ((("scale", SCALE_BITS[self.scale_type]),), self.per)


def mean(rows: Tensor, kept: Tensor) -> Tensor:
    """Return each row's mean over its kept elements, as a finite float32 and back; 0 where none are kept."""
    count = kept.sum(1).clamp(min=1)
    total = torch.where(kept, rows, 0.0).sum(1)
    total = torch.where(torch.isfinite(total), total / count, FLOAT32.max)  # a sum beyond float64
    return total.clamp(max=FLOAT32.max).to(torch.float32).to(torch.float64)


@FORMATS.add("binary")
@dataclass(frozen=True)
class Binary(SignFormat):
    """Codes -1 and 1 (stored as one bit, 1 for negative) times the mean magnitude; 0 and -0 become 1.

    Args:
        per: who shares a scale: ``tensor``, ``channel`` (text suffix ``c``), or ``none``: values are -1 and 1 (``u``).
        scale_type: what scales are stored as: ``fp32``, ``fp16`` or ``bf16``.

    Source: Rastegari et al., XNOR-Net, 2016.
    """

    per: Per = "tensor"
    scale_type: ScaleType = "fp32"
    ebnf: ClassVar[str] = '"binary" ["c" | "u"]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"binary([cu]?)")
    words: ClassVar[Words] = {kind: ("scale_type", kind) for kind in STORED if kind != "fp32"}

    def __post_init__(self) -> None:
        one_of("binary", "per", self.per, PER)
        one_of("binary", "scale_type", self.scale_type, STORED)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(PER_LETTERS[match[1]], **cls._options(match))

    def __str__(self) -> str:
        letter = next(letter for letter, per in PER_LETTERS.items() if per == self.per)
        return f"binary{letter}{self._suffix()}"

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        rows = self._rows(x, axis)
        if self.per == "none":
            return QuantParams(axis=axis)
        scale = mean(rows, torch.isfinite(rows))
        stored = torch.where(scale == 0, 0.0, round_scale(scale, self.scale_type))
        return QuantParams(scale=self._shaped(stored), axis=axis)

    def _codes(self, x: Tensor, spread: QuantParams) -> Tensor:
        return torch.where(x >= 0, 1, -1)

    def _signs(self, params: QuantParams) -> Signs:
        return Signs(zero=False)

    def layout(self) -> Layout:
        return Layout((("sign", 1),), *self._shared_fields())

    def values(self) -> Tensor:
        return torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": 1}
