"""From exact integers to minifloats and logarithms (hw/encode)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from mase.blocks.block_normalise import element_round, elements
from mase.dataflow.block import Pipe
from mase.dataflow.contents import PIECE
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.base import pow2
from mase.formats.grid import Grid


@dataclass(frozen=True)
class Encoder:
    """The encoder before it is folded; the same questions as to a Normaliser."""

    rows: int
    cols: int
    in_width: int
    exp: int
    man: int
    log: bool = False

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""
        return self.rows * ceil_div(self.cols, lanes)

    @cached_property
    def latency(self) -> int:
        """Cycles from the reading of a beat to its being offered, at any lanes."""
        return int(self._path(1).latency) + 1

    def fifo(self, beats: Count) -> Count:
        """Return a FIFO depth that keeps the rate of one output beat in ``beats`` cycles."""
        return ceil_div(self.latency, beats) + 2

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any numbers of lanes."""
        path = control(counters=(self.cycles(lanes),)) & self._path(lanes)
        return path >> credit_fifo(lanes * (1 + self.exp + self.man) + 1, fifo)

    def _path(self, lanes: Count) -> Part:
        if self.in_width <= PIECE:  # every bit of a number is one LUT, as the bits that go are known
            bits = 1 + self.exp + self.man
            part: Part = lanes * Part(
                Work(gates=((bits, self.in_width),), registers=2 * self.in_width + bits), latency=3
            )
            return part.along(1)
        return element_round(lanes, self.in_width, self.exp, self.man, self.log).along(1)


@dataclass(frozen=True, eq=False)
class Encode(Pipe):
    """Round a stream of exact integers to minifloats or logarithms without exponents of blocks, ``lanes`` a cycle.

    Args:
        rows, cols, lanes: shape of both streams. in_width: bits of an integer.
        unit: exponent of the integer 1. grid: the result's codes.
    """

    rows: int
    cols: int
    lanes: int
    in_width: int
    unit: int
    grid: Grid
    sv_module: ClassVar[str] = "mase_encode"

    @property
    def stream_in(self) -> StreamType:
        top = (1 << self.in_width - 1) - 1
        return StreamType(self.rows, self.cols, self.lanes, Grid(self.in_width, True, -top - 1, top, self.unit))

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        factor = pow2(torch.tensor(self.unit - self.grid.unit))
        return (Code(elements(inputs[0].mantissa.to(torch.float64) * factor, self.grid)),)

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        pattern = self.grid.pattern
        assert pattern is not None
        least, most = -(1 << pattern.exp) - pattern.man - 1, self.in_width + 1  # beyond these all saturates, or is 0
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "InWidth": self.in_width,
            "ExpBits": pattern.exp,
            "ManBits": pattern.man,
            "Top": pattern.top,
            "Log": int(not pattern.subnormal),
            "Down": min(max(self.grid.unit - self.unit, least), most),
            "FifoDepth": self.fifo,
        }

    @property
    def normaliser(self) -> Encoder:
        """All that its hardware depends on but the lanes."""
        pattern = self.grid.pattern
        assert pattern is not None
        return Encoder(self.rows, self.cols, self.in_width, pattern.exp, pattern.man, not pattern.subnormal)

    def part(self) -> Part:
        return self.normaliser.part(self.lanes, self.fifo)
