"""From exact integers to signs: ternary and binary results (hw/sign)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.grid import Grid

WIDTH = 2
LATENCY = 2  # the comparison, then the output FIFO
DIGITS = 53  # of an edge, and of all integers that are compared with it
HALF = 31  # bits of an edge in one parameter
FARTHEST = 900  # bits of an edge that nothing passes


def edge(threshold: Fraction, unit: int) -> int:
    """Return the greatest integer of 53 digits that is not above a threshold; its 1 is worth 2**unit."""
    exact = (threshold / Fraction(2) ** unit).__floor__()
    cut = max(0, exact.bit_length() - DIGITS)
    return min(exact >> cut << cut, 1 << FARTHEST)


@dataclass(frozen=True)
class Signer:
    """The block before it is folded; the same questions as to a Normaliser."""

    rows: int
    cols: int
    in_width: int
    zero: bool

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""
        return self.rows * ceil_div(self.cols, lanes)

    def fifo(self, beats: Count) -> Count:
        """Return a FIFO depth that keeps the rate of one output beat in ``beats`` cycles."""
        return ceil_div(LATENCY, beats) + 2

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any numbers of lanes."""
        beats = ceil_div(self.cols, lanes)
        compared = Work(gates=((lanes * 2 * self.zero, self.in_width),), registers=lanes * WIDTH)
        padded = Part(Work(muxes=((lanes * WIDTH * np.not_equal(self.cols % lanes, 0), 2),)))
        counted = control(counters=(self.rows * beats, beats))
        return (counted & padded & Part(compared, latency=1).along(1)) >> credit_fifo(lanes * WIDTH + 1, fifo)


@dataclass(frozen=True, eq=False)
class Sign(Pipe):
    """Give the signs of a stream of exact integers, ``lanes`` a cycle.

    Args:
        rows, cols, lanes: shape of both streams. in_width: bits of an integer. unit: exponent of the integer 1.
        grid: the result's codes. edge: the greatest integer whose sign is 0.
    """

    rows: int
    cols: int
    lanes: int
    in_width: int
    unit: int
    grid: Grid
    edge: int
    sv_module: ClassVar[str] = "mase_sign"

    @property
    def stream_in(self) -> StreamType:
        top = (1 << self.in_width - 1) - 1
        return StreamType(self.rows, self.cols, self.lanes, Grid(self.in_width, True, -top - 1, top, self.unit))

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        assert self.grid.signs is not None
        return (Code(self.grid.signs.codes(inputs[0].mantissa, self.edge)),)

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        assert self.grid.signs is not None
        edge = min(self.edge, (1 << self.in_width) - 1)  # nothing passes that
        shift = max(0, edge.bit_length() - 2 * HALF)
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "Cols": self.cols,
            "InWidth": self.in_width,
            "HasZero": int(self.grid.signs.zero),
            "EdgeHigh": edge >> shift + HALF,
            "EdgeLow": (edge >> shift) & (1 << HALF) - 1,
            "EdgeShift": shift,
            "FifoDepth": self.fifo,
        }

    @property
    def normaliser(self) -> Signer:
        """All that its hardware depends on but the lanes."""
        assert self.grid.signs is not None
        return Signer(self.rows, self.cols, self.in_width, self.grid.signs.zero)

    def part(self) -> Part:
        return self.normaliser.part(self.lanes, self.fifo)
