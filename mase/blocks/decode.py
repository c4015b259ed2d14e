"""From codes to the integers that they stand for (hw/decode): zero points, and patterns of exponent and mantissa."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mase.dataflow.block import Pipe
from mase.dataflow.contents import PIECE
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.grid import Grid


@dataclass(frozen=True, eq=False)
class Decode(Pipe):
    """Give the integers of ``grid.plain`` for codes of ``grid``, ``lanes`` a cycle; tail lanes give 0."""

    rows: int
    cols: int
    lanes: int
    grid: Grid
    sv_module: ClassVar[str] = "mase_decode"

    def __post_init__(self) -> None:
        check_lanes("decode", self.grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.grid)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.grid.plain)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.grid.decoded(inputs[0]),)

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        grid, pattern = self.grid, self.grid.pattern
        scale = None if grid.scales is None else grid.scales.scale
        beats = self.stream_in.row_beats
        return {
            "Beats": self.stream_in.beats,
            "RowBeats": beats,
            "Tail": self.cols - (beats - 1) * self.lanes,
            "Lanes": self.lanes,
            "Width": grid.width,
            "Signed": int(grid.signed),
            "Zero": grid.zero,
            "ExpBits": 0 if pattern is None else pattern.exp,
            "ManBits": 0 if pattern is None else pattern.man,
            "Top": 0 if pattern is None else pattern.top,
            "Subnormal": int(pattern is None or pattern.subnormal),
            "Own": int(pattern is not None and pattern.own),
            "FieldExp": 0 if scale is None else scale.exp,
            "FieldMan": 0 if scale is None else scale.man,
            "FieldTop": 0 if scale is None else scale.top,
            "InExpBits": grid.exp_bits,
            "InBlock": max(1, grid.block),
            "OutWidth": grid.plain.width,
            "OutExpBits": grid.plain.exp_bits,
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return decode_part(self.rows, self.cols, self.grid, self.lanes, self.fifo)


def decode_part(rows: int, cols: int, grid: Grid, lanes: Count, fifo: Count) -> Part:
    """Return what a decoder is made of at any numbers of lanes."""
    plain, pattern, beats = grid.plain, grid.pattern, ceil_div(cols, lanes)
    exponents = np.maximum(1, lanes // plain.block) if plain.block else 0
    bits = lanes * plain.width + exponents * plain.exp_bits
    most = 0 if pattern is None or pattern.own else pattern.most_shift
    small = pattern is not None and grid.width <= PIECE  # every bit of an integer is one LUT
    own = pattern is not None and pattern.own
    decoded = Part(
        Work(
            adders=((lanes, plain.width),) * (not small)  # the zero point, or the sign
            + ((lanes, 0 if pattern is None else pattern.exp),) * own,  # and a shift that is an exponent
            shifters=((lanes, plain.width, most),) * (most > 0 and not small),
            gates=((lanes * plain.width, grid.width),) * small + ((lanes * (grid.width - 1), grid.width),) * own,
            multipliers=() if grid.scales is None else ((lanes, *scaled_bits(grid)),),
            registers=bits,
        ),
        latency=1,
    )
    return control(counters=(rows * beats, beats)) & decoded.along(1) >> credit_fifo(bits + 1, fifo)


def scaled_bits(grid: Grid) -> tuple[int, int]:
    """Return the bits of an element and of the digits of its scale, whose product a decoder gives."""
    assert grid.pattern is not None
    assert grid.scales is not None
    return grid.pattern.most.bit_length() + 1, grid.scales.scale.man + 2
