"""Block minifloat: small floats whose exponent bias is shared by a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from mase.errors import FormatError
from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    ROUNDING_WORDS,
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
from mase.formats.blocks import TILE, check_block, read_tile, sharing, tile_text
from mase.formats.minifloat import Minifloat
from mase.formats.mxfp import FloatBlocks
from mase.formats.rounding import Rounding


@FORMATS.add("bm")
@dataclass(frozen=True)
class BlockMinifloat(FloatBlocks):
    """Minifloats of which a block shares the bias b = 2**exp - 1 - X, X = floor(log2(max |x|)): the top exponent is X.

    All codes are numbers; subnormals are kept; elements round and saturate. ``Code.exponent`` is X, in a window of
    2**exp_bits values. (Public code takes b = floor(log2 max), which loses all blocks with a maximum below 1.)

    Args:
        width: bits of an element, 2..16.
        exp: exponent bits of an element, 1..8, at most width - 1.
        block: elements that share a bias, 1..65536.
        exp_bits: bits of the shared field, 1..8; 8 is X = -127..127, fewer is a window below a calibrated top.
        outer: extents of the block along the axes before the blocked one; none by default.
        rounding: of elements.
        compat: ``mase`` reproduces ``block_minifloat_quantizer`` of MASE and llm-mixed-q (values only).

    Source: Fox et al., A Block Minifloat Representation for Training Deep Neural Networks, 2021.
    """

    width: int = 8
    exp: int = 4
    block: int = 16
    exp_bits: int = 8
    outer: tuple[int, ...] = ()
    rounding: Rounding = "even"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"bm" nat "e" nat ["b" tile] ["s" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(rf"bm(\d+)e(\d+)(?:b{TILE})?(?:s(\d+))?")
    words: ClassVar[Words] = {**ROUNDING_WORDS, **compat_words("mase")}

    def __post_init__(self) -> None:
        within("bm", "width", self.width, 2, 16)
        within("bm", "exp", self.exp, 1, 8)
        if self.exp >= self.width:
            raise FormatError(
                f"bm: exp is {self.exp}; allowed beside a sign in {self.width} bits is 1..{self.width - 1}"
            )
        check_block("bm", self.block, self.outer, self.exp_bits, self.rounding)
        one_of("bm", "compat", self.compat, ("", "mase"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        tile: Mapping[str, Any] = read_tile(match[3], 16)  # Any: fields of two types
        return cls(int(match[1]), int(match[2]), exp_bits=int(match[4] or 8), **tile, **cls._options(match))

    def __str__(self) -> str:
        shared = "" if self.exp_bits == 8 else f"s{self.exp_bits}"
        return f"bm{self.width}e{self.exp}{tile_text(self.tile, 16)}{shared}{self._suffix()}"

    @cached_property
    def element(self) -> Minifloat:
        return Minifloat(self.exp, self.width - 1 - self.exp, special="finite", rounding=self.rounding)

    @property
    def offset(self) -> int:
        return self.element.top_exponent

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return super().encode(x, params)

    def _published(self, blocks: Tensor) -> Tensor:
        return compat.mase_block_minifloat(blocks, self.exp, self.width - 1 - self.exp, self.exp_bits)

    def layout(self) -> Layout:
        return Layout(self.element.layout().element, (("bias", self.exp_bits),), sharing(self.tile))

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "ExpBits": self.exp, "Block": self.block, "BiasBits": self.exp_bits}
