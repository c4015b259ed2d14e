"""Microscaling floating point: small floats that share one power-of-two scale a block."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from mase.errors import FormatError
from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    NAN_WORDS,
    ROUNDING_WORDS,
    Compat,
    Layout,
    NanPolicy,
    QuantParams,
    Words,
    compat_words,
    one_of,
    text_form,
)
from mase.formats.blocks import (
    RULE_WORDS,
    RULES,
    TILE,
    BlockFormat,
    Rule,
    check_block,
    read_tile,
    sharing,
    threshold,
    tile_text,
)
from mase.formats.chunks import Scratch
from mase.formats.grid import Grid, Rise
from mase.formats.minifloat import Minifloat
from mase.formats.rounding import Rounding


class FloatBlocks(BlockFormat):
    """Blocks whose elements are minifloats: what MXFP and block minifloat share."""

    exp: int
    man: int

    @property
    @abstractmethod
    def element(self) -> Minifloat:
        """Return the format of an element."""

    def code_range(self) -> tuple[int, int]:
        return self.element.code_range()

    def _bounds(self) -> tuple[float, float]:
        return -self.element.top, self.element.top

    def _put(self, v: Tensor, seed: int) -> Tensor:
        return self.element.codes(v, seed)

    def _get(self, codes: Tensor) -> Tensor:
        return self.element.reals(codes)

    def _rounder(self) -> Callable[[Tensor, Scratch], None] | None:
        return self.element.round_ if self.element.fast and not self.compat else None

    def grid(self, params: QuantParams, where: str) -> Grid:
        self._check_on_chip(where)
        base = self.base(params)
        element = self.element.element_grid(base - self.offset)
        return replace(
            element,
            block=self.block,
            exp_bits=self.exp_bits,
            base=base,
            span=self.span,
            lift=self._lift,
            rise=Rise.of(self._threshold),
        )


@FORMATS.add("mxfp")
@dataclass(frozen=True)
class MXFP(FloatBlocks):
    """Minifloats times a scale 2**X per block, X = floor(log2(max |x|)) - (exponent of the greatest element).

    Elements round to nearest even and saturate; the scale is OCP's E8M0, -127..127; an all-zero block takes -127.

    Args:
        exp: exponent bits of an element, 1..8.
        man: mantissa bits of an element, 0..23. The OCP elements are e4m3, e5m2, e3m2, e2m3, e2m1; other sizes are
            finite-only.
        block: elements that share one scale, 1..65536.
        outer: extents of the block along the axes before the blocked one; none by default.
        rule: ``floor`` is OCP's; ``ceil`` rounds log2(max) up; ``rceil`` is the least scale under which nothing clips;
            ``even`` first rounds the maximum to the element's mantissa.
        rounding: of elements.
        nan: ``error`` refuses NaN and saturates infinity; ``encode`` makes a block that holds either all NaN, as OCP
            does by scale code 255.
        compat: reproduce a published tool instead of the specification: ``microxcaling`` and ``brevitas`` (logarithm in
            float32; microxcaling also of elements), ``torchao`` (loses values where the scale is 2**-127).

    Source: OCP Microscaling Formats v1.0.
    """

    exp: int = 4
    man: int = 3
    block: int = 32
    outer: tuple[int, ...] = ()
    rule: Rule = "floor"
    rounding: Rounding = "even"
    nan: NanPolicy = "error"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"mxfp" nat ["e" nat "m" nat] ["b" tile]'
    grammar: ClassVar[re.Pattern[str]] = text_form(rf"mxfp(\d+)(?:e(\d+)m(\d+))?(?:b{TILE})?")
    words: ClassVar[Words] = {
        **RULE_WORDS,
        **ROUNDING_WORDS,
        **NAN_WORDS,
        **compat_words("microxcaling", "torchao", "brevitas"),
    }

    def __post_init__(self) -> None:
        self.element  # noqa: B018  # refuses impossible sizes
        check_block("mxfp", self.block, self.outer, self.exp_bits, self.rounding)
        one_of("mxfp", "rule", self.rule, RULES)
        one_of("mxfp", "nan", self.nan, ("error", "encode"))
        one_of("mxfp", "compat", self.compat, ("", "microxcaling", "torchao", "brevitas"))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        width = int(match[1])
        if match[2] is None and width != 4:
            raise FormatError(
                f"format {match[0]!r}: the element's split is missing; allowed are mxfp4, or a split as in mxfp8e4m3"
            )
        exp, man = (2, 1) if match[2] is None else (int(match[2]), int(match[3]))
        if width != 1 + exp + man:
            raise FormatError(
                f"format {match[0]!r}: width is {width}; e{exp}m{man} and a sign take {1 + exp + man} bits"
            )
        tile: Mapping[str, Any] = read_tile(match[4], 32)  # Any: fields of two types
        return cls(exp, man, **tile, **cls._options(match))

    def __str__(self) -> str:
        split = "" if (self.exp, self.man) == (2, 1) else f"e{self.exp}m{self.man}"
        return f"mxfp{1 + self.exp + self.man}{split}{tile_text(self.tile, 32)}{self._suffix()}"

    @cached_property
    def element(self) -> Minifloat:
        return Minifloat(self.exp, self.man, rounding=self.rounding)

    @property
    def exp_bits(self) -> int:  # type: ignore[override]  # a field in other block formats
        return 8

    @property
    def offset(self) -> int:
        return 0

    def _exponent(self, blocks: Tensor) -> Tensor:
        if self.compat in ("microxcaling", "brevitas"):
            return compat.log2_exponent(blocks.abs().amax(-1)) - self._lift
        return super()._exponent(blocks)

    def _scaled(self, blocks: Tensor, exponent: Tensor) -> Tensor:
        if self.compat == "torchao":
            return compat.torchao_scaled(blocks, exponent, self.rule)
        return super()._scaled(blocks, exponent)

    def _put(self, v: Tensor, seed: int) -> Tensor:
        if self.compat == "microxcaling":
            e = self.element
            return e.codes(compat.microxcaling_element(v, e.man, e.least_exponent, e.top, self.rounding))
        return super()._put(v, seed)

    @property
    def _lift(self) -> int:
        return self.element.top_exponent

    @property
    def _threshold(self) -> float:
        return threshold(self.rule, self.element.top, self.man)

    def layout(self) -> Layout:
        return Layout(self.element.layout().element, (("scale exponent", 8),), sharing(self.tile))

    def sv_params(self) -> Mapping[str, int]:
        return {"ExpBits": self.exp, "ManBits": self.man, "Block": self.block}
