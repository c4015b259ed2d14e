"""One stream for two consumers, each behind a FIFO of its own (hw/fork)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import IN, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, tile_lanes
from mase.formats import Code

A, B = "a", "b"


@dataclass(frozen=True)
class ForkFoldings(Foldings):
    """A fork before its lanes are known: those of the stream that it takes.

    Args:
        rows, cols: of the stream. width, block, exp_bits: of the elements, block and exp_bits 0 without exponents.
    """

    rows: int
    cols: int
    width: int
    block: int
    exp_bits: int
    follows: ClassVar[bool] = True

    @classmethod
    def of(cls, stream: StreamType) -> Self:
        """Build for a stream; its lanes do not matter."""
        grid = stream.grid
        return cls(stream.rows, stream.cols, grid.width, grid.block, grid.exp_bits)

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.rows * ceil_div(self.cols, simd)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {A: LEAST_FIFO, B: LEAST_FIFO}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": self.part(simd, fifos).work}

    def part(self, lanes: Count, fifos: Mapping[str, Count]) -> Part:
        """Return what it is made of: a beat lies in both FIFOs a cycle after it was taken."""
        exponents = np.maximum(1, lanes // self.block) * self.exp_bits if self.block else 0
        bits = lanes * self.width + exponents
        a, b = (credit_fifo(bits + 1, fifos[port]) for port in (A, B))
        return control(counters=(self.cycles(lanes, lanes),)) >> (a & b)


@dataclass(frozen=True, eq=False)
class Fork(Block):
    """Give each beat twice. One is taken once both FIFOs have a slot for it, and leaves each when its reader takes it.

    Args:
        stream: of the input and of both outputs.
        depths: of the FIFO behind ``a`` and of that behind ``b``, in beats; by default both are ``fifo``.
    """

    stream: StreamType
    depths: Mapping[str, int] = field(default_factory=dict)
    sv_module: ClassVar[str] = "mase_fork"

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        return {IN: self.stream}

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        return {A: self.stream, B: self.stream}

    @property
    def foldings(self) -> ForkFoldings:
        """All that its hardware depends on but the lanes."""
        return ForkFoldings.of(self.stream)

    def depth(self, port: str) -> int:
        return self.depths.get(port, self.fifo)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return inputs[0], inputs[0]

    def schedule(self) -> Schedule:
        step = Step((IN,), (IN,), (A, B), (A, B))
        actor = Actor("", (Loop(self.stream.beats, (step,)),), {A: self.latency, B: self.latency})
        return Schedule((actor,), ports={port: ("", port) for port in (IN, A, B)})

    def sv_params(self) -> Mapping[str, int]:
        depths = {"DepthA": self.depth(A), "DepthB": self.depth(B)}
        return {"Width": self.stream.bits, "Beats": self.stream.beats, **depths}

    def part(self) -> Part:
        return self.foldings.part(self.stream.lanes, {port: self.depth(port) for port in (A, B)})
