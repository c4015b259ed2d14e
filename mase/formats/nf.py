"""NormalFloat: a table whose entries a normal distribution uses equally often."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch

from mase.formats.base import FORMATS, Words, text_form, within
from mase.formats.codebook import SCALE_WORDS, TableBlocks
from mase.formats.scales import ScaleType

TAIL = 0.9677083  # probability of the outermost quantile: the mean of 1 - 1/30 and 1 - 1/32
PUBLISHED = {  # as the tools have them, in float32; computing them again differs in the last bit
    2: (-1.0, 0.0, 0.33791524171829224, 1.0),
    4: (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ),
}


@FORMATS.add("nf")
@dataclass(frozen=True)
class NormalFloat(TableBlocks):
    """Quantiles of a normal distribution, 2**(width-1) - 1 negative, 0, 2**(width-1) positive, divided by the greatest.

    Args:
        width: stored bits, 2..8; 4 is NF4.
        block: elements that share a scale, their greatest magnitude, 1..65536.
        scale_type: what scales are stored as.

    Source: Dettmers et al., QLoRA, 2023, appendix E.
    """

    width: int = 4
    block: int = 64
    scale_type: ScaleType = "fp32"
    ebnf: ClassVar[str] = '"nf" nat ["b" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"nf(\d+)(?:b(\d+))?")
    words: ClassVar[Words] = SCALE_WORDS

    def __post_init__(self) -> None:
        within("nf", "width", self.width, 2, 8)
        self._check("nf")

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[1]), int(match[2] or 64), **cls._options(match))

    def __str__(self) -> str:
        return f"nf{self.width}{'' if self.block == 64 else f'b{self.block}'}{self._suffix()}"

    @cached_property
    def table(self) -> tuple[float, ...]:
        return PUBLISHED.get(self.width) or normal_table(self.width)


def normal_table(width: int) -> tuple[float, ...]:
    """Return the 2**width entries, float32 numbers."""
    half = 1 << width - 1

    def quantiles(count: int) -> torch.Tensor:
        """Return ``count`` positive quantiles, falling."""
        points: torch.Tensor = torch.special.ndtri(torch.linspace(TAIL, 0.5, count + 1, dtype=torch.float64)[:-1])
        return points

    positive, negative = quantiles(half), -quantiles(half - 1)
    table = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)])
    return tuple((table / table[-1]).to(torch.float32).tolist())
