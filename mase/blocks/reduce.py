"""Reduce groups of rows to one row each, column by column: the greatest, the sum, a weighted sum (hw/reduce)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mase.blocks.align import Alignment
from mase.blocks.output import Output
from mase.blocks.product import Product
from mase.blocks.unit import Behind, output
from mase.dataflow.block import MemoryImage, Pipe, pack_words
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo, delay, rom, shift, when
from mase.dataflow.rounding import carrier
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, clog2, comparison
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.base import pow2
from mase.formats.grid import Grid, signed_width

EXACT_BITS = 48  # widest sum of integers that carry exponents
SUM_BITS = 62  # widest sum of any
Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Reduction:
    """What becomes of the rows of a group before the rounding, in integers.

    Args:
        x: grid of the rows. low: least mantissa that occurs in them.
        taps: rows of a group. cols: of a row.
        maximum: the greatest of each column, else a sum. least: of these the least in place of the greatest.
        weight: int64 ``[taps, cols]`` that the rows are multiplied by, or None. powers: they are powers of two, with a
            sign, or 0. bias: int64 ``[cols]`` of that sum.
        alignment: of the rows, where the sum is cut. bias_exp: int64 ``[cols]``, exponents of the bias then.
        where: for errors.
    """

    x: Grid
    low: int
    taps: int
    cols: int
    maximum: bool = False
    weight: Tensor | None = None
    bias: Tensor | None = None
    powers: bool = False
    alignment: Alignment | None = None
    bias_exp: Tensor | None = None
    where: str = "reduce"
    least: bool = False

    def __post_init__(self) -> None:
        assert self.maximum or not self.least
        most = EXACT_BITS if self.x.block else SUM_BITS
        if self.acc_width > most and not (self.maximum and self.x.block):  # the greatest has no more digits than one
            what = "the greatest value" if self.maximum else "the exact sum"
            hint = "; use a smaller exponent window" if self.x.block else ""
            raise UnsupportedOp(f"{self.where}: {what} takes {self.acc_width} bits; allowed are {most}{hint}")

    @property
    def taken(self) -> Grid:
        """Grid of the rows that the unit takes."""
        return self.x if self.alignment is None else self.alignment.grid

    @cached_property
    def range(self) -> Span:
        """Least and greatest integer that an accumulator ever holds, any partial sum."""
        up = self.x.span if self.alignment is None else self.alignment.guard
        low, high = self.low << up, self.x.high << up
        if self.maximum:
            return low, high
        if self.weight is None:
            return self.taps * min(0, low), self.taps * max(0, high)
        columns = [column.tolist() for column in self.weight.T]
        starts = [0] * self.cols if self.bias is None else [b << self.raised for b in self.bias.tolist()]
        least = [min(0, b) + sum(min(0, w * low, w * high) for w in ws) for ws, b in zip(columns, starts, strict=True)]
        most = [max(0, b) + sum(max(0, w * low, w * high) for w in ws) for ws, b in zip(columns, starts, strict=True)]
        return min(least), max(most)

    @property
    def bound(self) -> int:
        """Greatest absolute value of what is rounded; of the greatest of blocks as :attr:`Grid.digits` has it."""
        if self.maximum and self.x.block:
            return self.x.digits
        low, high = self.range
        return max(-low, high)

    @cached_property
    def acc_width(self) -> int:
        """Bits of an accumulator."""
        low, high = self.range
        return max(signed_width(low, high), self.value_bits if self.maximum else 1)

    @property
    def raised(self) -> int:
        """Bits that a sum has below the unit of its terms."""
        return 0 if self.alignment is None else self.alignment.guard

    @property
    def value_bits(self) -> int:
        """Bits of what is summed or multiplied: a mantissa shifted by its exponent."""
        shifted = self.x.block and self.alignment is None
        return self.taken.element_bits + (self.x.span if shifted else 0)

    @property
    def exp_max(self) -> int:
        """Greatest exponent that a sum is shifted by at its end."""
        return 0 if self.alignment is None else self.taken.span

    @cached_property
    def product(self) -> Product | None:
        """How values are multiplied by weights."""
        return None if self.weight is None else Product.least(self.weight, self.powers)

    @cached_property
    def bias_bits(self) -> int:
        """Bits of a bias; 0 without one."""
        return 0 if self.bias is None else signed_width(int(self.bias.min()), int(self.bias.max()))

    def integers(self, x: Code) -> Tensor:
        """Return exact integers ``[samples, groups, cols]`` from codes ``[samples, groups * taps, cols]``."""
        if self.alignment is not None:
            return self.sums(self.alignment.apply(x))
        reach = 1 if self.weight is None else int(self.weight.abs().max())
        dtype = carrier(max(self.bound, 1), self.x.reach, reach)
        rows: Tensor = self.x.integers(x, dtype).unflatten(1, (-1, self.taps))
        if self.maximum:
            return rows.amin(2) if self.least else rows.amax(2)
        if self.weight is None:
            return rows.sum(2, dtype=dtype)
        sums = torch.zeros(rows.shape[0], rows.shape[1], self.cols, dtype=dtype)
        if self.bias is not None:
            sums += self.bias.to(dtype)
        for tap, weight in enumerate(self.weight.to(dtype)):
            sums.addcmul_(rows[:, :, tap], weight)
        return sums

    def sums(self, x: Code) -> Tensor:
        """Return the sums of aligned rows: float64 integers with at most 53 significant bits."""
        assert x.exponent is not None
        rows: Tensor = x.mantissa.unflatten(1, (-1, self.taps)).double()
        sums: Tensor = rows.sum(2) if self.weight is None else (rows * self.weight).sum(2)
        exponent = (x.exponent - self.x.base).unflatten(1, (-1, self.taps))[:, :, 0]
        exponent = exponent.repeat_interleave(self.x.block, -1)[..., : self.cols]
        if self.bias is not None:
            own = 0 if self.bias_exp is None else self.bias_exp
            sums += (self.bias * pow2(self.raised + own - exponent)).floor_()
        return sums * pow2(exponent)

    def column(self, column: list[tuple[int, int]], c: int) -> int:
        """Return the integer of one column from mantissas and exponents above the base: the oracle of the above."""
        if self.alignment is None:
            return self.scalar([x << e for x, e in column], c)
        terms, top = self.alignment.scalar(column, c // self.x.block)
        start = 0
        if self.bias is not None:
            own = 0 if self.bias_exp is None else int(self.bias_exp[c])
            start = int(self.bias[c]) << self.raised >> top - own
        weights = [1] * self.taps if self.weight is None else self.weight[:, c].tolist()
        total: int = start + sum(x * w for x, w in zip(terms, weights, strict=True))
        return total << top

    def scalar(self, column: list[int], c: int) -> int:
        """Return the integer of one column from those of its rows, which are exact."""
        if self.maximum:
            return min(column) if self.least else max(column)
        if self.weight is None:
            return sum(column)
        start = 0 if self.bias is None else int(self.bias[c])
        return start + sum(x * int(w) for x, w in zip(column, self.weight[:, c].tolist(), strict=True))


@dataclass(frozen=True)
class ReduceFoldings:
    """The unit before its lanes are known, without its weights.

    Args:
        groups, taps, cols: sizes. x_bits, x_block, x_span: of x, sign-extended.
        aligned: bits of the exponent of a group that comes with x; 0 without one.
        maximum: instead of a sum. product: with weights, or None. bias_bits, mult_bits: of bias, multiplier; 0: none.
        acc_width: of an accumulator. out_width: of what leaves, without the bits that are always 0; rounded: here.
        mult_shared: one multiplier for all columns. normaliser: what follows, or None.
    """

    groups: int
    taps: int
    cols: int
    x_bits: int
    x_block: int
    x_span: int
    aligned: int
    maximum: bool
    product: Product | None
    bias_bits: int
    mult_bits: int
    mult_shared: bool
    acc_width: int
    out_width: int
    rounded: bool
    normaliser: Behind | None

    def beats(self, lanes: Count) -> Count:
        """Return the beats of a row."""
        return ceil_div(self.cols, lanes)

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample, of what follows too."""
        core = self.groups * self.taps * self.beats(lanes)
        return core if self.normaliser is None else np.maximum(core, self.normaliser.cycles(lanes))

    @cached_property
    def latency(self) -> int:
        """Cycles from a firing of a group's last row to its output beat, at any lanes."""
        return int(self.core(1, 0).latency)

    def fifos(self, lanes: Count) -> Mapping[str, Count]:
        """Return depths that keep the rate."""
        pace = np.where(np.equal(self.beats(lanes), 1), self.taps, 1)  # results of one beat leave a group apart
        depth = ceil_div(self.latency, pace) + 2
        return {"": depth} if self.normaliser is None else {"": depth, "normalise": self.normaliser.fifo(1)}

    def work(self, lanes: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        """Return what the unit and its normaliser are made of, by role."""
        core = {"": self.core(lanes, fifos[""]).work}
        if self.normaliser is None:
            return core
        return {**core, "normalise": self.normaliser.part(lanes, fifos["normalise"]).work}

    def core(self, lanes: Count, fifo: Count) -> Part:
        """Return the unit."""
        beats, several, shifted = self.beats(lanes), self.taps > 1, self.x_block and not self.aligned
        value, words = self.x_bits + (0 if self.aligned else self.x_span), self.taps * beats
        terms: Part = lanes * shift(value, self.x_span if shifted else 0)
        if self.product is not None:
            kept = min(self.product.result(value), self.acc_width)
            stored_bits = self.product.stored(np.not_equal(self.cols % lanes, 0))
            terms = terms >> (lanes * self.product.part(value, kept, words) & rom(lanes * stored_bits, words))
        terms = terms & control(2 * several * terms.latency) & delay(clog2(beats), terms.latency)
        constants = when(self.bias_bits > 0, rom(lanes * self.bias_bits, beats))
        if self.mult_bits:
            mult = rom(lanes * self.mult_bits, beats)
            constants = constants & (Part(Work(wires=mult.work.roms)) if self.mult_shared else mult)
        stored = lanes * self.out_width
        if self.aligned:
            terms = terms & self._group_exponents(lanes, terms.latency + 1 + (self.mult_bits > 0))
        out = output(
            lanes,
            self.acc_width,
            self.out_width,
            stored,
            self.rounded,
            mult_bits=self.mult_bits,
            exp_max=self.x_span if self.aligned else 0,
            aligned=self.aligned > 0,
        )
        path = (terms >> (self._bank(lanes) & constants) >> out).along(1)
        counters = (beats, self.taps, self.groups, *((words,) * (self.product is not None)))
        return control(counters=counters) & path >> credit_fifo(stored + 1, fifo)

    def _group_exponents(self, lanes: Count, wait: Count) -> Part:
        """Return what exponents of groups add: their way beside the sum, and the shift of the bias."""
        biased, bits = self.bias_bits > 0, self.aligned
        return Part(
            Work(
                adders=((lanes, bits),) * biased,
                shifters=((lanes, self.acc_width, self.x_span),) * biased,
                delays=((np.maximum(1, lanes // self.x_block) * bits, wait),),
                roms=((lanes * bits, self.beats(lanes)),) * biased,
            )
        )

    def _bank(self, lanes: Count) -> Part:
        """Return the accumulators."""
        beats, several, acc = self.beats(lanes), self.taps > 1, self.acc_width
        banked = np.greater(beats, 1)
        started = np.int64(self.bias_bits > 0) * banked  # a choice between sum and start; of constants it is none
        return Part(
            Work(
                adders=((lanes * (1 - started), comparison(acc) if self.maximum else acc),) * several,
                accumulators=((lanes * started, acc),),
                muxes=((lanes * acc * banked, 2),) * (self.maximum and several),  # a lone register is loaded
                registers=lanes * acc,
                banks=((lanes * acc * banked * several, beats),),
            ),
            latency=1,
        )


@dataclass(frozen=True, eq=False)
class Reduce(Pipe):
    """Reduce each ``taps`` rows of a stream to one, ``lanes`` columns a cycle.

    Args:
        groups: of a sample. reduction: arithmetic up to the rounding. out: the rounding.
    """

    groups: int
    lanes: int
    reduction: Reduction
    out: Output
    sv_module: ClassVar[str] = "mase_reduce"

    def __post_init__(self) -> None:
        for grid in (self.reduction.taken, self.out.grid):
            check_lanes(self.reduction.where, grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        red = self.reduction
        return StreamType(self.groups * red.taps, red.cols, self.lanes, red.taken)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.groups, self.reduction.cols, self.lanes, self.out.raw_grid(self.raw_width))

    @property
    def raw_width(self) -> int:
        """Bits of the integers that are rounded."""
        return self.reduction.acc_width + self.out.mult_bits + self.reduction.exp_max

    @property
    def raw(self) -> bool:
        """Tell whether exact integers leave, for the block behind it."""
        return self.out.raw

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        red = self.reduction
        sums = red.integers(*inputs) if red.alignment is None else red.sums(*inputs)
        return (self.out.given(sums),)

    def schedule(self) -> Schedule:
        beats, taps = self.stream_in.row_beats, self.reduction.taps
        group = (Loop((taps - 1) * beats, (stream(take=True),)), Loop(beats, (stream(take=True, produce=True),)))
        return Schedule((Actor("", (Loop(self.groups, group),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        red, x = self.reduction, self.reduction.taken
        return {
            "Groups": self.groups,
            "Taps": red.taps,
            "Beats": self.stream_in.row_beats,
            "Lanes": self.lanes,
            "Maximum": int(red.maximum),
            "Least": int(red.least),
            "XWidth": x.width,
            "XSigned": int(x.signed),
            "XExpBits": x.exp_bits,
            "XExpMax": x.span,
            "XBlock": max(1, x.block),
            "Aligned": int(red.alignment is not None),
            "Guard": red.raised,
            **self._weight_params,
            "AccWidth": red.acc_width,
            "BiasWidth": red.bias_bits,
            **self.out.sv_params(self.raw_width),
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        red, images = self.reduction, {}
        tables = {"BiasFile": (red.bias, red.bias_bits), "MultFile": (self.out.multiplier, self.out.mult_bits)}
        if red.alignment is not None and red.bias is not None:
            tables["BiasExpFile"] = (red.bias_exp, red.taken.exp_bits)
        if red.weight is not None and red.product is not None:
            layout = f"word t * {self.stream_in.row_beats} + b holds w[t][b * Lanes + l] at bit l * WWidth"
            images["WeightFile"] = self._weights(red.weight, red.product, layout + red.product.layout())
        for name, (values, width) in tables.items():
            if values is not None:
                layout = f"word b holds the value of column b * Lanes + l at bit l * {width}"
                images[name] = self._image(values.expand(1, red.cols), width, layout)
        return images

    @property
    def _padded(self) -> bool:
        """Tell whether some words hold weights of no column."""
        return self.reduction.cols % self.lanes > 0

    @property
    def _weight_params(self) -> Mapping[str, int]:
        if self.reduction.product is None:
            return {"WWidth": 0, "WPower": 0, "WZero": 0}
        params = self.reduction.product.sv_params(self._padded)
        return {name: value for name, value in params.items() if name not in ("WExp", "WFactor")}

    def _weights(self, weight: Tensor, product: Product, layout: str) -> MemoryImage:
        padded = self.stream_in.row_beats * self.lanes - weight.shape[1]
        words = product.words(np.pad(weight.numpy(), ((0, 0), (0, padded))), self._padded)
        return self._image(torch.from_numpy(words), int(product.stored(self._padded)), layout)

    def _image(self, table: Tensor, width: int, layout: str) -> MemoryImage:
        """Return the words of ``[rows, cols]``, a beat each."""
        beats = self.stream_in.row_beats
        padded = np.pad(table.numpy(), ((0, 0), (0, beats * self.lanes - table.shape[1])))
        return MemoryImage(self.lanes * width, pack_words(padded.reshape(-1, self.lanes), width), layout)

    @cached_property
    def foldings(self) -> ReduceFoldings:
        """All that its hardware depends on but the lanes."""
        red, out, normaliser = self.reduction, self.out, None
        if self.raw:
            normaliser = out.normaliser(self.groups, red.cols, max(1, out.grid.block), self.raw_width, 2).normaliser
        rounded = normaliser is None
        return ReduceFoldings(
            self.groups,
            red.taps,
            red.cols,
            red.taken.element_bits,
            red.x.block,
            red.taken.span if red.x.block else 0,
            red.taken.exp_bits if red.alignment is not None else 0,
            red.maximum,
            red.product,
            red.bias_bits,
            out.mult_bits,
            out.multiplier is not None and out.multiplier.numel() == 1,
            red.acc_width,
            (out.grid.width if rounded else self.raw_width) - out.zero_bits,
            rounded,
            normaliser,
        )

    def part(self) -> Part:
        return self.foldings.core(self.lanes, self.fifo)
