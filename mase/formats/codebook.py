"""Tables of values: each element is the index of an entry, each block has a real scale."""

from __future__ import annotations

import itertools
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mase.doors.number import real
from mase.errors import FormatError
from mase.formats.base import (
    FORMATS,
    Code,
    Format,
    Layout,
    Pieces,
    QuantParams,
    Words,
    checked,
    one_of,
    text_form,
    within,
)
from mase.formats.blocks import MAX_BLOCK, Tiling, block_pieces, sharing
from mase.formats.scales import SCALE_BITS, SCALE_TYPES, ScaleType, round_scale, scale_code, scale_value

SCALE_WORDS: Words = {kind: ("scale_type", kind) for kind in SCALE_TYPES if kind not in ("fp32", "short")}
MAX_ENTRIES = 256


class TableFormat(Format):
    """Codes are indices of entries; blocks share what these are multiplied with."""

    block: int

    @property
    @abstractmethod
    def table(self) -> tuple[float, ...]:
        """Return the entries, rising."""

    def code_range(self) -> tuple[int, int]:
        return 0, len(self.table) - 1

    def values(self) -> Tensor:
        return torch.tensor(self.table, dtype=torch.float64)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": (len(self.table) - 1).bit_length(), "Entries": len(self.table), "Block": self.block}

    def _entries(self, like: Tensor) -> Tensor:
        return torch.tensor(self.table, dtype=torch.float64, device=like.device)


class TableBlocks(TableFormat):
    """Entry times scale: the nearest entry, the lower one of a tie; a block's scale maps its maximum to the table's."""

    scale_type: ScaleType

    @property
    def width(self) -> int:
        """Return the stored bits of an index."""
        return max(1, (len(self.table) - 1).bit_length())

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return QuantParams(axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        tiling = Tiling.of(x.ndim, (self.block,), params, str(self))
        blocks = tiling.split(checked(x, self))
        scale = self._scales(blocks)
        stored = scale_code(scale, self.scale_type).squeeze(-1)
        return Code(tiling.join(self._codes(blocks, scale), x.shape), scale=tiling.shared_back(stored, x.ndim))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        stored = code.scales
        if stored is None:
            raise FormatError(f"{self}: the code holds no scales; decode needs one for each block")
        params = params if params is not None else QuantParams()
        tiling = Tiling.of(code.mantissa.ndim, (self.block,), params, str(self))
        scale = scale_value(tiling.shared_last(stored), self.scale_type).unsqueeze(-1)
        return tiling.join(self._entries(scale)[tiling.split(code.mantissa)] * scale, code.mantissa.shape)

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        tiling = Tiling.of(x.ndim, (self.block,), params, str(self))
        blocks = tiling.split(checked(x, self))
        scale = self._scales(blocks).expand_as(blocks)
        low, high = (tiling.join(scale * self.table[end], x.shape) for end in (0, -1))
        return low, high

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        tiling = Tiling.of(len(shape), (self.block,), QuantParams(axis=axis), str(self))
        return self.width + SCALE_BITS[self.scale_type] * tiling.count(shape) / max(1, math.prod(shape))

    def layout(self) -> Layout:
        return Layout((("index", self.width),), (("scale", SCALE_BITS[self.scale_type]),), sharing((self.block,)))

    def _check(self, what: str) -> None:
        within(what, "block", self.block, 1, MAX_BLOCK)
        one_of(what, "scale_type", self.scale_type, [kind for kind in SCALE_TYPES if kind != "short"])

    def _scales(self, blocks: Tensor) -> Tensor:
        """Return float64 ``[..., 1]``; infinity counts as the greatest float32."""
        top = blocks.abs().amax(-1, keepdim=True).clamp(max=torch.finfo(torch.float32).max)
        return round_scale(top / max(abs(self.table[0]), abs(self.table[-1])), self.scale_type)

    def _codes(self, blocks: Tensor, scale: Tensor) -> Tensor:
        entries = self._entries(blocks)
        return torch.bucketize((blocks / scale).contiguous(), (entries[1:] + entries[:-1]) / 2)

    def _pieces(self, x: Tensor, y: Tensor, params: QuantParams, limit: int) -> Pieces:
        for source, target in block_pieces(x, y, Tiling.of(x.ndim, (self.block,), params, str(self)), limit):
            yield source, target, params

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        scale = self._scales(x)
        return self._entries(x)[self._codes(x, scale)] * scale


@FORMATS.add("codebook")
@dataclass(frozen=True)
class Codebook(TableBlocks):
    """Any rising table of values, such as one learnt by clustering.

    Args:
        entries: 2..256 finite values, rising, not all 0; rounded to float32.
        block: elements that share a scale, 1..65536.
        scale_type: what scales are stored as.
    """

    entries: tuple[float, ...] = (-1.0, -0.25, 0.25, 1.0)
    block: int = 64
    scale_type: ScaleType = "fp32"
    ebnf: ClassVar[str] = '"codebook[" number {"," number} "]" ["b" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"codebook\[([^\[\]]*)\](?:b(\d+))?")
    words: ClassVar[Words] = SCALE_WORDS

    def __post_init__(self) -> None:
        self._check("codebook")
        within("codebook", "number of entries", len(self.entries), 2, MAX_ENTRIES)
        entries = tuple(torch.tensor(self.entries, dtype=torch.float32).tolist())
        rising = all(a < b for a, b in itertools.pairwise(entries))
        if not rising or not all(math.isfinite(entry) for entry in entries):
            raise FormatError(
                f"codebook: entries are {self.entries}; allowed are finite values, each above the one before"
            )
        object.__setattr__(self, "entries", tuple(entry + 0.0 for entry in entries))  # -0 is 0

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        entries = tuple(real(entry.strip(), f"format {match[0][:60]!r}", FormatError) for entry in match[1].split(","))
        return cls(entries, int(match[2] or 64), **cls._options(match))

    def __str__(self) -> str:
        entries = ",".join(str(np.float32(entry)) for entry in self.entries)  # numpy writes as few digits as it takes
        return f"codebook[{entries}]{'' if self.block == 64 else f'b{self.block}'}{self._suffix()}"

    @property
    def table(self) -> tuple[float, ...]:
        return self.entries
