"""Block logarithm: signed powers of two whose bias is shared by a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    Code,
    Compat,
    Layout,
    QuantParams,
    Words,
    compat_words,
    one_of,
    refuse_codes,
    text_form,
    within,
)
from mase.formats.blocks import TILE, BlockFormat, check_block, read_tile, sharing, threshold, tile_text
from mase.formats.grid import Grid, Rise
from mase.formats.log import Log


@FORMATS.add("bl")
@dataclass(frozen=True)
class BlockLog(BlockFormat):
    """Powers of two of which a block shares the bias b = 2**(width-1) - 1 - X, X = ceil(log2(max |x|)).

    The greatest element is 2**X; there is no zero. ``Code.exponent`` is X, in a window of 2**exp_bits values.

    Args:
        width: bits of an element, sign included, 2..9.
        block: elements that share a bias, 1..65536.
        exp_bits: bits of the shared field, 1..8; 8 is X = -127..128, fewer is a window below a calibrated top.
        outer: extents of the block along the axes before the blocked one; none by default.
        compat: ``mase`` reproduces ``block_log_quantizer`` of MASE and llm-mixed-q (values only).
    """

    width: int = 4
    block: int = 16
    exp_bits: int = 8
    outer: tuple[int, ...] = ()
    compat: Compat = ""
    rounding: ClassVar[str] = "even"  # type: ignore[misc]  # of the logarithm, which has no ties
    ebnf: ClassVar[str] = '"bl" nat ["b" tile] ["s" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(rf"bl(\d+)(?:b{TILE})?(?:s(\d+))?")
    words: ClassVar[Words] = compat_words("mase")

    def __post_init__(self) -> None:
        within("bl", "width", self.width, 2, 9)
        check_block("bl", self.block, self.outer, self.exp_bits, "even")
        one_of("bl", "compat", self.compat, ("", "mase"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        tile: Mapping[str, Any] = read_tile(match[2], 16)  # Any: fields of two types
        return cls(int(match[1]), exp_bits=int(match[3] or 8), **tile, **cls._options(match))

    def __str__(self) -> str:
        shared = "" if self.exp_bits == 8 else f"s{self.exp_bits}"
        return f"bl{self.width}{tile_text(self.tile, 16)}{shared}{self._suffix()}"

    @cached_property
    def element(self) -> Log:
        """Return the format of an element: its greatest number is 1."""
        return Log(self.width, (1 << self.width - 1) - 1)

    @property
    def offset(self) -> int:
        return 0

    @property
    def span(self) -> int:
        return (1 << self.exp_bits) - 1

    @property
    def _threshold(self) -> float:
        return threshold("ceil", 1.0, 0)

    def code_range(self) -> tuple[int, int]:
        return self.element.code_range()

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return super().encode(x, params)

    def _bounds(self) -> tuple[float, float]:
        return -1.0, 1.0

    def _put(self, v: Tensor, seed: int) -> Tensor:
        return self.element.codes(v)

    def _get(self, codes: Tensor) -> Tensor:
        return self.element.reals(codes)

    def _published(self, blocks: Tensor) -> Tensor:
        return compat.mase_block_log(blocks, self.width - 1, self.exp_bits)

    def grid(self, params: QuantParams, where: str) -> Grid:
        self._check_on_chip(where)
        base = self.base(params)
        element = self.element.grid(params, where)
        return replace(
            element,
            unit=element.unit + base,
            block=self.block,
            exp_bits=self.exp_bits,
            base=base,
            span=self.span,
            rise=Rise.of(self._threshold),
        )

    def layout(self) -> Layout:
        return Layout(self.element.layout().element, (("bias", self.exp_bits),), sharing(self.tile))

    def sv_params(self) -> Mapping[str, int]:
        return {"ExpBits": self.width - 1, "Block": self.block, "BiasBits": self.exp_bits}
