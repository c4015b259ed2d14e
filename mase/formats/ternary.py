"""Ternary: a sign or zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.formats.base import FORMATS, Layout, QuantParams, Words, one_of, text_form
from mase.formats.binary import PER_LETTERS, SignFormat, mean
from mase.formats.grid import Signs
from mase.formats.scaled import PER, Per

THRESHOLD = 0.75  # of the mean magnitude
UNSCALED = 0.5  # without a scale


@FORMATS.add("ternary")
@dataclass(frozen=True)
class Ternary(SignFormat):
    """Codes -1, 0 and 1 times the mean of the magnitudes above a threshold, which is 0.75 of the mean magnitude.

    Args:
        per: who shares scale and threshold: ``tensor``, ``channel`` (text suffix ``c``), or ``none`` (``u``): values
            are then -1, 0 and 1, and the threshold is 0.5.

    Source: Li, Zhang, Liu, Ternary Weight Networks, 2016.
    """

    per: Per = "tensor"
    ebnf: ClassVar[str] = '"ternary" ["c" | "u"]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"ternary([cu]?)")
    words: ClassVar[Words] = {}

    def __post_init__(self) -> None:
        one_of("ternary", "per", self.per, PER)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(PER_LETTERS[match[1]], **cls._options(match))

    def __str__(self) -> str:
        return "ternary" + next(letter for letter, per in PER_LETTERS.items() if per == self.per)

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        if self.per == "none":
            return QuantParams(threshold=torch.tensor(UNSCALED, dtype=torch.float64), axis=axis)
        rows = self._rows(x, axis)
        threshold = THRESHOLD * mean(rows, torch.isfinite(rows))
        kept = (rows > threshold.unsqueeze(1)) & torch.isfinite(rows)
        return QuantParams(scale=self._shaped(mean(rows, kept)), threshold=self._shaped(threshold), axis=axis)

    def _codes(self, x: Tensor, spread: QuantParams) -> Tensor:
        threshold = UNSCALED if spread.threshold is None else spread.threshold
        return (x > threshold).to(torch.int64) - (x < -threshold).to(torch.int64)

    def _signs(self, params: QuantParams) -> Signs:
        threshold, scale = (
            default if shared is None else float(shared.reshape(-1)[0])
            for shared, default in ((params.threshold, UNSCALED), (params.scale, 1.0))
        )
        return Signs(threshold, scale=scale)

    def layout(self) -> Layout:
        return Layout((("code", 2),), *self._shared_fields())

    def values(self) -> Tensor:
        return torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": 2, "Signed": 1}
