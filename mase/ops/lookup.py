"""Functions of one element by a table: y = T[x], where each word is the real value, rounded once (hw/table)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from mase.blocks.banks import Gathered
from mase.blocks.encode import Encode
from mase.blocks.output import Output
from mase.blocks.sign import Sign
from mase.blocks.table import Table, index, index_bits, table_path
from mase.blocks.unit import Behind, UnitFoldings
from mase.dataflow.block import Block
from mase.dataflow.contents import Contents
from mase.dataflow.grid import produced_grid, stream_grid
from mase.dataflow.part import Part, last_call
from mase.dataflow.stream import Travel
from mase.dataflow.work import Count, Lanes, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code, Format
from mase.formats.base import floor_log2
from mase.formats.grid import Grid, signed_width
from mase.formats.whole import whole
from mase.graph import OpNode
from mase.ops.base import Pointwise, travel
from mase.ops.exact import undefined, values

MOST_BITS = 10  # of a code without blocks: a block RAM has as many words
MOST_WIDE = 16  # of a code without blocks, that is an integer: polynomials take those without a table
MOST_BLOCK_BITS = 12  # of a code and the exponent of its block
GUARD = 16  # bits of a word beside those of a mantissa, where the result has blocks
FINEST = 4  # bits below the last of any mantissa that a word may have
MODES = {"even": "even", "half_up": "half_up", "trunc": "floor"}  # of a node, as a format calls them


@dataclass(frozen=True)
class LookupFoldings(UnitFoldings):
    """The unit before it is folded.

    Args:
        rows, cols: shape. index: bits that name a word. bits: of a word. x_block, out_block: 0 without exponents.
        normaliser: what follows where the result has blocks. contents: of the words.
    """

    rows: int
    cols: int
    index: int
    bits: int
    x_block: int
    out_block: int
    normaliser: Behind | None
    contents: Contents

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.x_block, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * ceil_div(self.cols, pe), pe)

    def beat_bits(self, pe: Count) -> Count:
        return pe * self.bits

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        return table_path(self.rows, self.cols, pe, self.bits, self.index, self.contents)


def fits(x: Grid) -> bool:
    """Tell whether codes of blocks are few enough for a table; others may be read by polynomials."""
    return not x.block or index_bits(x) <= MOST_BLOCK_BITS


class Domain:
    """The codes that a node can be fed, and their values.

    Args:
        node: whose input 0 it is. least: value that no element of the input is below.
    """

    def __init__(self, node: OpNode, least: float) -> None:
        source = node.inputs[0]
        fmt, params = source.record.output.format, replace(source.params(), axis=-1)
        assert fmt is not None
        self.format, self.grid = fmt, stream_grid(fmt, source.params(), node.where())
        x = self.grid
        bits, most = index_bits(x), most_bits(x)
        self.wide = bits > MOST_BITS and not x.block
        if bits > most:
            what = f"{x.width} bits and {x.exp_bits} of the exponent" if x.block else f"{bits} bits"
            raise UnsupportedOp(
                f"{node.where()}: a table for inputs in {fmt} has an index of {what}; allowed are {most} in all: "
                f"give the producer an output format of at most {MOST_WIDE} bits without blocks"
            )
        codes = torch.arange(x.low, x.high + 1)
        if x.block:
            exponents = (x.base + torch.arange(x.span + 1)).unsqueeze(-1)
            all_codes = Code(codes.repeat(x.span + 1, 1), exponents.repeat(1, -(-len(codes) // x.block)))
        else:
            all_codes = Code(codes.unsqueeze(0))
        real = fmt.decode(all_codes, params).flatten()
        kept = real.isfinite() & (real >= least)
        self.codes, self.index = all_codes.mantissa.flatten()[kept], index(x, all_codes).flatten()[kept]
        self.real = real[kept]

    @cached_property
    def values(self) -> list[float]:
        """Values of the codes, exact."""
        values: list[float] = self.real.tolist()
        return values

    def check(self, node: OpNode, function: str, attrs: Mapping[str, Any]) -> None:
        """Raise UnsupportedOp where the function has no finite value at a code that can come."""
        worst = torch.stack((self.real.argmin(), self.real.abs().argmin()))  # the least value, and zero
        for code, x in zip(self.codes[worst].tolist(), self.real[worst].tolist(), strict=True):
            if why := undefined(function, attrs, x):
                above = self.real[self.real > 0].tolist()
                nearest = f"; the nearest choice is a clamp to {min(above):g} or more before it" if above else ""
                raise UnsupportedOp(
                    f"{node.where()}: {function} of code {code} (value {x:g}) of {self.format} is {why}: "
                    f"a table of an infinite range{nearest}"
                )


@dataclass(frozen=True, eq=False)
class Lookup:
    """y = T[x]: every word is the code of f(x), or, where the result has blocks, f(x) on a grid of its own.

    Args:
        name: of the node. order: in which elements travel, on both sides. x, y: grids of input and result.
        words: int64, in order of the index. first: the least code that can come. out: what makes blocks of words, where
            the result has blocks.
    """

    name: str
    order: Travel
    x: Grid
    y: Grid
    words: Tensor
    first: int
    out: Output | None = None

    @classmethod
    def of(cls, node: OpNode, function: str, attrs: Mapping[str, Any], least: float) -> Self:
        """Build for a function of the input of a node; ``least`` is as in :class:`Domain`.

        Raises:
            UnsupportedOp: as :class:`Domain`, or the function is infinite somewhere, or a format has no hardware.
        """
        domain, where, mode = Domain(node, least), node.where(), node.record.attrs.get("rounding", "even")
        domain.check(node, function, attrs)
        assert not domain.wide
        kind, params = node.record.output, node.params()
        assert kind.format is not None
        y = result_grid(node)
        real = torch.tensor(values(function, attrs, domain.values), dtype=torch.float64)
        out = None
        if y.block:
            scale = params.scale if y.scaled else None
            real = within(real, y, 1.0 if scale is None else float(scale))
            unit = unit_of(real, y, GUARD, 1.0 if scale is None else float(scale))
            codes = whole((real * 2.0**-unit).round())
            out = Output.of(y, None, scale, unit, max(1, int(codes.abs().max())), False, mode, where)
        else:
            codes = rounding(kind.format, mode, where).encode(real, replace(params, axis=-1)).mantissa
        words = torch.zeros(1 << index_bits(domain.grid), dtype=torch.int64)
        words[domain.index] = codes
        first = int(domain.codes.min())
        return cls(node.name, travel(node.inputs[0]), domain.grid, y, words, first, out)

    @cached_property
    def word_grid(self) -> Grid:
        """Codes of the words: the result's, or integers that the normaliser takes."""
        if self.out is None:
            return self.y
        low, high = int(self.words.min()), int(self.words.max())
        return Grid(signed_width(low, high), True, low, high, self.out.unit)

    def reference(self, *inputs: Code) -> Code:
        found = self.words[index(self.x, self.order.travelling(inputs[0], self.x.block))]
        y = Code(found) if self.out is None else self.out.apply(found.to(torch.float64))
        return self._held(y, inputs[0])

    def oracle(self, *inputs: Code) -> Code:
        code, table = self.order.travelling(inputs[0], self.x.block), self.words.tolist()
        exps = None if code.exponent is None else code.exponent.flatten(0, 1).tolist()
        mantissas, exponents = [], []
        for r, row in enumerate(code.mantissa.flatten(0, 1).tolist()):
            found = []
            for i, x in enumerate(row):
                field = 0 if exps is None else exps[r][i // self.x.block] - self.x.base
                found.append(table[(field << self.x.width) + x % (1 << self.x.width)])
            if self.out is not None:
                found, blocks = self.out.scalar(found)
                exponents.append(blocks)
            mantissas.append(found)
        mantissa = torch.tensor(mantissas).reshape(code.mantissa.shape)
        exponent = torch.tensor(exponents).reshape(*mantissa.shape[:2], -1) if self.y.block else None
        return self._held(Code(mantissa, exponent), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        """Return codes of the result as the tensor holds them, shaped as the input."""
        return self.order.held(y, x.mantissa.shape[1:], self.y.block)

    @cached_property
    def foldings(self) -> LookupFoldings:
        rows, cols, bits = self.order.rows, self.order.cols, self.word_grid.width
        normaliser = self._normalise(self.out, self.y.block, 2).normaliser if self.out is not None else None
        contents, blocks = Contents.of(self.words.numpy(), bits), (self.x.block, self.y.block)
        return LookupFoldings(rows, cols, index_bits(self.x), bits, *blocks, normaliser, contents)

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        source, target = self.order.stream(pe, self.x), self.order.stream(pe, self.word_grid)
        core = Table(source, target, self.words, fifo=fifos.get("", 2))
        if self.out is None:
            return {"": core}
        return {"": core, "normalise": self._normalise(self.out, pe, fifos.get("normalise", 2))}

    def _normalise(self, out: Output, lanes: int, fifo: int) -> Gathered | Encode | Sign:
        return out.normaliser(self.order.rows, self.order.cols, lanes, self.word_grid.width, fifo)

    def pointwise(self) -> Pointwise | None:
        """Return the function of a code; None where exponents count."""
        if self.x.block or self.y.block:
            return None
        return Pointwise(
            self.order, self.x, self.y, lambda codes: self.words[index(self.x, Code(codes))], None, self.first
        )

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: every word is the nearest one."""
        return ()


def most_bits(x: Grid) -> int:
    """Return how many bits a code and the exponent of its block may have together for a function of them."""
    return MOST_BLOCK_BITS if x.block else MOST_BITS if x.pattern else MOST_WIDE


def result_grid(node: OpNode) -> Grid:
    """Return the grid of a result: a table gives any codes, a normaliser those of block formats that it rounds to."""
    fmt, params, where = node.record.output.format, node.params(), node.where()
    assert fmt is not None
    grid = stream_grid(fmt, params, where)
    mode = getattr(fmt, "rounding", "even")
    return produced_grid(fmt, params, where) if grid.block or mode != "even" else grid


def rounding(fmt: Format, mode: str, where: str) -> Format:
    """Return a format that rounds as a node says."""
    if mode not in MODES:
        raise UnsupportedOp(f"{where}: rounding {mode!r}; allowed: {', '.join(MODES)}")
    if mode == "even":
        return fmt
    if "rounding" not in {field.name for field in fields(fmt)}:  # type: ignore[arg-type]  # all are dataclasses
        raise UnsupportedOp(f"{where}: rounding {mode!r} into {fmt}; allowed: even")
    return replace(fmt, rounding=MODES[mode])  # type: ignore[type-var]  # likewise


def within(real: Tensor, y: Grid, scale: float) -> Tensor:
    """Return values as near as scales of blocks reach, so that what saturates takes no bits of words from the others.

    Args:
        scale: of the result, where values are not over it.
    """
    return real if y.scales is None else real.clamp(-y.scales.most * scale, y.scales.most * scale)


def unit_of(real: Tensor, y: Grid, guard: int, scale: float = 1.0) -> int:
    """Return the exponent of a word's 1: the greatest value has up to ``guard`` bits more than a mantissa.

    Args:
        scale: of the result, where values are not over it.
    """
    top = real.abs().amax()
    finest = y.unit - FINEST + math.frexp(scale)[1] - 1
    return finest if float(top) == 0 else max(int(floor_log2(top)) - (y.width + guard - 2), finest)
