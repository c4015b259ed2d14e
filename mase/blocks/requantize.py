"""Codes of one grid as codes of another, with one rounding (hw/requantize)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.unit import Behind, UnitFoldings, output
from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, last_call, shift
from mase.dataflow.rounding import FLOAT_SAFE
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Lanes, Work, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.formats.whole import whole

DIGITS = 31  # bits of an upper bound without its trailing zeros


@dataclass(frozen=True, eq=False)
class Rescaling:
    """y = round(m * min(x << e, ceiling)).

    Args:
        name: for errors. rows, cols: shape of one sample. x: grid of the input. out: multiplier and rounding.
        ceiling: greatest integer that is let through; 0: all are.
    """

    name: str
    rows: int
    cols: int
    x: Grid
    out: Output
    ceiling: int

    @property
    def title(self) -> str:
        """What errors call it."""
        return self.name

    def integers(self, x: Code) -> Tensor:
        """Return the input on one unit: exact integers."""
        t = self.x.integers(x, torch.float64)
        if self.ceiling:
            t = t.clamp_max(float(self.ceiling))
        return t if self.out.total < FLOAT_SAFE else whole(t)

    @property
    def raw_width(self) -> int:
        """Bits of the integers that are rounded, as the RTL derives them."""
        return self.x.element_bits + ((1 << self.x.exp_bits) - 1 if self.x.block else 0) + self.out.mult_bits


@dataclass(frozen=True)
class RequantizeFoldings(UnitFoldings):
    """The requantize unit before it is folded.

    Args:
        rows, cols: shape. x_width, x_bits, x_block, x_exp_bits: of the input, as in LinearFoldings.
        out_width, out_block: of the result. mult_bits, raw_width: of the multiplier (0: none) and the exact result.
        normaliser: what follows where the unit leaves raw integers. zero_bits: of a result that are always 0.
        mult_zeros: trailing zeros of the multiplier. bounded: the input has an upper bound.
    """

    rows: int
    cols: int
    x_bits: int
    x_block: int
    x_exp_bits: int
    out_width: int
    out_block: int
    mult_bits: int
    raw_width: int
    normaliser: Behind | None
    zero_bits: int = 0
    mult_zeros: int = 0
    bounded: bool = False

    @classmethod
    def of(cls, scaling: Rescaling) -> Self:
        """Build for a scaling."""
        x, out, normaliser = scaling.x, scaling.out, None
        if out.raw:
            normaliser = out.normaliser(scaling.rows, scaling.cols, 1, scaling.raw_width, 2).normaliser
        return cls(
            scaling.rows,
            scaling.cols,
            x.element_bits,
            x.block,
            x.exp_bits,
            out.grid.width,
            out.grid.block,
            out.mult_bits,
            scaling.raw_width,
            normaliser,
            out.zero_bits,
            0 if out.multiplier is None else _trailing_zeros(int(out.multiplier[0])),
            scaling.ceiling > 0,
        )

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.x_block, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * ceil_div(self.cols, pe), pe)

    def beat_bits(self, pe: Count) -> Count:
        return pe * ((self.out_width if self.normaliser is None else self.raw_width) - self.zero_bits)

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        wide, beats, rounds = self.raw_width - self.mult_bits, self.rows * ceil_div(self.cols, pe), not self.normaliser
        shifted: Part = pe * shift(wide, (1 << self.x_exp_bits) - 1 if self.x_block else 0)
        rounded = output(
            pe, wide, self.out_width, self.beat_bits(pe), rounds, mult_bits=self.mult_bits, zeros=self.mult_zeros
        )
        bound = Part(Work(gates=((pe * wide, 2),) * self.bounded))
        return control(counters=(beats,)) & (shifted >> rounded).along(np.greater(beats, 1)) & bound


@dataclass(frozen=True, eq=False)
class RequantizeBlock(Pipe):
    """The requantize unit on ``lanes`` elements a cycle."""

    scaling: Rescaling
    lanes: int
    sv_module: ClassVar[str] = "mase_requantize"

    def __post_init__(self) -> None:
        for grid in (self.scaling.x, self.scaling.out.grid):
            check_lanes(self.scaling.title, grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.scaling.rows, self.scaling.cols, self.lanes, self.scaling.x)

    @property
    def stream_out(self) -> StreamType:
        scaling = self.scaling
        return StreamType(scaling.rows, scaling.cols, self.lanes, scaling.out.raw_grid(scaling.raw_width))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.scaling.out.given(self.scaling.integers(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self.scaling.integers(*inputs), self.scaling.out.describe

    @cached_property
    def foldings(self) -> RequantizeFoldings:
        """All that its hardware depends on but the lanes."""
        return RequantizeFoldings.of(self.scaling)

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        scaling = self.scaling
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "XWidth": scaling.x.width,
            "XSigned": int(scaling.x.signed),
            "XExpBits": scaling.x.exp_bits,
            "XBlock": max(1, scaling.x.block),
            "CeilDigits": _digits(scaling.ceiling)[0],
            "CeilShift": _digits(scaling.ceiling)[1],
            "Mult": 1 if scaling.out.multiplier is None else int(scaling.out.multiplier[0]),
            **scaling.out.sv_params(scaling.raw_width),
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return self.foldings.core(self.lanes, self.lanes, self.fifo)


def ceiling(most: float, x: Grid, where: str) -> int:
    """Return an upper bound as an integer of a grid; 0 where nothing lies above it."""
    plain = x.plain
    reach = max(-plain.low, plain.high) << plain.span
    if math.isinf(most) or most >= reach * Fraction(2) ** plain.unit:
        return 0
    exact = Fraction(most) / Fraction(2) ** plain.unit
    if exact.denominator > 1 or _digits(int(exact))[0] >> DIGITS:
        raise UnsupportedOp(
            f"{where}: the bound {most:g} has no short code in units of the input; allowed are such as 6"
        )
    return int(exact)


def _digits(n: int) -> tuple[int, int]:
    """Return (d, s) with n = d << s and d odd, or (0, 0)."""
    shift = max(_trailing_zeros(n), 0)
    return n >> shift, shift


def _trailing_zeros(n: int) -> int:
    return (n & -n).bit_length() - 1
