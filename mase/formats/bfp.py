"""Block floating point: signed integers under one exponent a block, as MSFP and the MXINT of LQER have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

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
from mase.formats.blocks import (
    RULE_WORDS,
    TILE,
    Rule,
    check_block,
    read_tile,
    sharing,
    threshold,
    tile_text,
)
from mase.formats.grid import Grid, Rise
from mase.formats.mxint import IntegerBlocks
from mase.formats.rounding import Rounding


@FORMATS.add("bfp")
@dataclass(frozen=True)
class BFP(IntegerBlocks):
    """Integers with step 2**(K - (width - 1)), K the exponent that covers the block's greatest magnitude M.

    Under the rule ``ceil`` K = ceil(log2 M), so that an M which is a power of two clips by one step; under ``floor``
    K = floor(log2 M) + 1. Mantissas have no integer bit, round and saturate. K stays in a window of 2**exp_bits values.

    Args:
        width: bits of one mantissa, sign included, 2..16.
        block: elements that share one exponent, 1..65536.
        exp_bits: bits of the exponent, 1..8; 8 is -127..128, fewer is a window below a calibrated top.
        outer: extents of the block along the axes before the blocked one; none by default.
        rule: how K follows M.
        code: ``sm``, sign and magnitude, +-(2**(width-1) - 1); ``tc``, two's complement, one code more below.
        rounding: of mantissas.
        compat: ``mase`` reproduces ``block_fp_quantizer`` of MASE and llm-mixed-q (values only).

    Source: Darvish Rouhani et al., Pushing the Limits of Narrow Precision Inferencing at Cloud Scale with Microsoft
    Floating Point, 2020; Zhang et al., LQER, 2024.
    """

    width: int = 8
    block: int = 16
    exp_bits: int = 8
    outer: tuple[int, ...] = ()
    rule: Rule = "ceil"
    code: Literal["sm", "tc"] = "sm"
    rounding: Rounding = "even"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"bfp" nat ["b" tile] ["e" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(rf"bfp(\d+)(?:b{TILE})?(?:e(\d+))?")
    words: ClassVar[Words] = {
        "xfloor": RULE_WORDS["xfloor"],
        "tc": ("code", "tc"),
        **ROUNDING_WORDS,
        **compat_words("mase"),
    }

    def __post_init__(self) -> None:
        within("bfp", "width", self.width, 2, 16)
        check_block("bfp", self.block, self.outer, self.exp_bits, self.rounding)
        one_of("bfp", "rule", self.rule, ("ceil", "floor"))
        one_of("bfp", "code", self.code, ("sm", "tc"))
        one_of("bfp", "compat", self.compat, ("", "mase"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        tile: Mapping[str, Any] = read_tile(match[2], 16)  # Any: fields of two types
        return cls(int(match[1]), exp_bits=int(match[3] or 8), **tile, **cls._options(match))

    def __str__(self) -> str:
        exponent = "" if self.exp_bits == 8 else f"e{self.exp_bits}"
        return f"bfp{self.width}{tile_text(self.tile, 16)}{exponent}{self._suffix()}"

    def code_range(self) -> tuple[int, int]:
        return -(1 << self.width - 1) + (self.code == "sm"), (1 << self.width - 1) - 1

    @property
    def offset(self) -> int:
        return self.width - 1

    @property
    def span(self) -> int:
        return (1 << self.exp_bits) - 1

    @property
    def _lift(self) -> int:
        return -1 if self.rule == "floor" else 0

    @property
    def _threshold(self) -> float:
        return threshold(self.rule, 1.0, 0)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return super().encode(x, params)

    def _published(self, blocks: Tensor) -> Tensor:
        return compat.mase_bfp(blocks, self.width, self.exp_bits)

    def layout(self) -> Layout:
        element = (("sign", 1), ("fraction", self.width - 1))
        return Layout(element, (("exponent", self.exp_bits),), sharing(self.tile))

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Width": self.width,
            "Block": self.block,
            "ExpBits": self.exp_bits,
            "Ceil": int(self.rule == "ceil"),
            "SignMagnitude": int(self.code == "sm"),
        }

    def grid(self, params: QuantParams, where: str) -> Grid:
        self._check_on_chip(where)
        base = self.base(params)
        return Grid(
            self.width,
            True,
            *self.code_range(),
            unit=base - self.offset,
            block=self.block,
            exp_bits=self.exp_bits,
            base=base,
            span=self.span,
            lift=self._lift,
            rise=Rise.of(self._threshold),
        )
