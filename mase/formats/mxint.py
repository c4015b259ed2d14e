"""Microscaling integers: one power-of-two scale a block."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    NAN_WORDS,
    ROUNDING_WORDS,
    Code,
    Compat,
    Layout,
    NanPolicy,
    QuantParams,
    Words,
    compat_words,
    one_of,
    refuse_codes,
    text_form,
    within,
)
from mase.formats.blocks import OCP_BASE, TILE, BlockFormat, check_block, read_tile, sharing, tile_text
from mase.formats.chunks import Scratch
from mase.formats.grid import Grid
from mase.formats.rounding import Rounding, rounded
from mase.formats.whole import whole

MAGIC = 1.5 * 2.0**23  # adding it rounds a float32 below 2**22 to an integer, ties to even


class IntegerBlocks(BlockFormat):
    """Blocks whose elements are integers: what MXINT and block floating point share."""

    width: int

    def _bounds(self) -> tuple[float, float]:
        low, high = self.code_range()
        return float(low), float(high)

    def _put(self, v: Tensor, seed: int) -> Tensor:
        return whole(rounded(v, self.rounding, seed).clamp_(*self.code_range()))

    def _get(self, codes: Tensor) -> Tensor:
        return codes.to(torch.float64)

    def _rounder(self) -> Callable[[Tensor, Scratch], None] | None:
        low, high = self.code_range()

        def rounder(v: Tensor, _: Scratch) -> None:
            v.clamp_(low, high).add_(MAGIC).sub_(MAGIC)

        return rounder if self.rounding == "even" and not self.compat else None


@FORMATS.add("mxint")
@dataclass(frozen=True)
class MXInt(IntegerBlocks):
    """Integers that share one power-of-two scale per block of the blocked axis.

    A block with exponent e = floor(log2(max |x|)) has step 2**(e - (width - 2)); mantissas round to nearest even and
    saturate at +-(2**(width-1) - 1). Exponents stay in a window of ``2**exp_bits`` values: above it elements saturate,
    below it they denormalise; an all-zero block takes the least exponent.

    Args:
        width: bits of one mantissa, sign included, 2..16.
        block: elements that share one exponent, 1..65536.
        exp_bits: bits of the exponent, 1..8; 8 is OCP's E8M0 (-127..127), fewer is a window below a calibrated top.
        outer: extents of the block along the axes before the blocked one; none by default.
        rounding: of mantissas.
        nan: ``error`` refuses NaN and saturates infinity; ``encode`` makes a block that holds either all NaN, as OCP
            does by scale code 255.
        compat: reproduce a published tool instead of the specification: ``microxcaling`` and ``brevitas`` (logarithm in
            float32; Brevitas also halves the step, so that maxima clip), ``qera`` (drops float32 subnormals), ``mase``
            (ceiling exponent; values only).

    Source: OCP Microscaling Formats v1.0, INT8 element; here with any width.
    """

    width: int = 8
    block: int = 32
    exp_bits: int = 8
    outer: tuple[int, ...] = ()
    rounding: Rounding = "even"
    nan: NanPolicy = "error"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"mxint" nat ["b" tile] ["e" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(rf"mxint(\d+)(?:b{TILE})?(?:e(\d+))?")
    words: ClassVar[Words] = {
        **ROUNDING_WORDS,
        **NAN_WORDS,
        **compat_words("microxcaling", "brevitas", "qera", "mase"),
    }

    def __post_init__(self) -> None:
        within("mxint", "width", self.width, 2, 16)
        check_block("mxint", self.block, self.outer, self.exp_bits, self.rounding)
        one_of("mxint", "nan", self.nan, ("error", "encode"))
        one_of("mxint", "compat", self.compat, ("", "microxcaling", "brevitas", "qera", "mase"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        tile: Mapping[str, Any] = read_tile(match[2], 32)  # Any: fields of two types
        return cls(int(match[1]), exp_bits=int(match[3] or 8), **tile, **cls._options(match))

    def __str__(self) -> str:
        exponent = "" if self.exp_bits == 8 else f"e{self.exp_bits}"
        return f"mxint{self.width}{tile_text(self.tile, 32)}{exponent}{self._suffix()}"

    def code_range(self) -> tuple[int, int]:
        return -(1 << self.width - 1) + (self.compat != "brevitas"), (1 << self.width - 1) - 1

    @property
    def offset(self) -> int:
        return self.width - 2 + (self.compat == "brevitas")

    def _exponent(self, blocks: Tensor) -> Tensor:
        if self.compat in ("microxcaling", "brevitas"):
            return compat.log2_exponent(blocks.abs().amax(-1))
        return super()._exponent(blocks)

    def _scaled(self, blocks: Tensor, exponent: Tensor) -> Tensor:
        scaled = super()._scaled(blocks, exponent)
        return scaled.masked_fill_((exponent <= OCP_BASE).unsqueeze(-1), 0.0) if self.compat == "qera" else scaled

    def _put(self, v: Tensor, seed: int) -> Tensor:
        if self.compat == "microxcaling":
            return whole(compat.microxcaling_digits(v, self.rounding).clamp_(*self.code_range()))
        return super()._put(v, seed)

    def _published(self, blocks: Tensor) -> Tensor:
        return compat.mase_mxint(blocks, self.width)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        refuse_codes(self, self.compat)
        return super().encode(x, params)

    def layout(self) -> Layout:
        element = (("sign", 1), ("integer", 1), ("fraction", self.width - 2))
        return Layout(tuple(f for f in element if f[1]), (("exponent", self.exp_bits),), sharing(self.tile))

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Block": self.block, "ExpBits": self.exp_bits}

    def grid(self, params: QuantParams, where: str) -> Grid:
        self._check_on_chip(where)
        (low, high), base, unit = self.code_range(), self.base(params), self.base(params) - (self.width - 2)
        return Grid(self.width, True, low, high, unit, False, self.block, self.exp_bits, base, self.span)
