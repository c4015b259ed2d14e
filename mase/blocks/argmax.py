"""Index of the greatest element of each row, the lowest among equal ones (hw/argmax)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo, last_call
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, clog2, comparison, tile_lanes, tree
from mase.formats import Code
from mase.formats.grid import Grid


@dataclass(frozen=True)
class ArgmaxFoldings(Foldings):
    """The unit before it is folded: shape, and of the input what LinearFoldings has."""

    rows: int
    cols: int
    x_bits: int
    x_block: int
    x_exp_bits: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.x_block)
        return lanes, np.ones_like(lanes)

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.rows * ceil_div(self.cols, simd)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": ceil_div(self.path(simd, pe).latency + 1, ceil_div(self.cols, simd)) + 2}

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        """Return all from the last beat of a row to the output FIFO."""
        index, beats = index_bits(self.cols), ceil_div(self.cols, simd)
        most = (1 << self.x_exp_bits) - 1 if self.x_block else 0
        value = self.x_bits + most + 1
        choice, levels = value + index, tree(simd, value, value, 1)
        shifted: Part = simd * Part(Work(shifters=((1, value, most),) * (most > 0), registers=choice), latency=1)
        best = Part(  # of a beat
            Work(
                adders=tuple((n, comparison(value)) for n, _, _ in levels),
                muxes=tuple((n * choice, 2) for n, _, _ in levels),
                registers=sum(registers for _, registers, _ in levels) * choice,
            ),
            latency=clog2(simd),
        )
        ever = Part(Work(adders=((1, comparison(value)),), registers=choice + 2), latency=1)  # loaded, not chosen
        return control(counters=(beats, self.rows)) & (shifted >> best).along(3) >> ever

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": (self.path(simd, pe) >> credit_fifo(index_bits(self.cols) + 1, fifos[""])).work}


@dataclass(frozen=True, eq=False)
class Argmax(Pipe):
    """The unit on ``lanes`` elements a cycle; one result a row.

    Args:
        x: grid of the input. results: rows and columns that the results are sent as, one lane.
    """

    rows: int
    cols: int
    lanes: int
    x: Grid
    results: tuple[int, int]
    sv_module: ClassVar[str] = "mase_argmax"

    def __post_init__(self) -> None:
        check_lanes("argmax", self.x, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.x)

    @property
    def stream_out(self) -> StreamType:
        bits = index_bits(self.cols)
        return StreamType(*self.results, 1, Grid(bits, False, 0, (1 << bits) - 1))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (Code(first_greatest(self.x.compared(inputs[0])).reshape(-1, *self.results)),)

    def schedule(self) -> Schedule:
        beats = self.stream_in.row_beats
        take, give = Step((IN,), (IN,)), Step((IN,), (IN,), (OUT,), (OUT,))
        row = (Loop(beats - 1, (take,)), give) if beats > 1 else (give,)
        return Schedule((Actor("", (Loop(self.rows, row),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Rows": self.rows,
            "Cols": self.cols,
            "Lanes": self.lanes,
            "XWidth": self.x.width,
            "XSigned": int(self.x.signed),
            "XExpBits": self.x.exp_bits,
            "XBlock": max(1, self.x.block),
            "OutWidth": index_bits(self.cols),
            "FifoDepth": self.fifo,
        }

    @cached_property
    def foldings(self) -> ArgmaxFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        return ArgmaxFoldings(self.rows, self.cols, self.x.element_bits, self.x.block, self.x.exp_bits)

    def part(self) -> Part:
        return self.foldings.path(self.lanes, 1) >> credit_fifo(index_bits(self.cols) + 1, self.fifo)


def index_bits(cols: int) -> int:
    """Return the bits of an index below ``cols``."""
    return max(1, (cols - 1).bit_length())


def first_greatest(values: torch.Tensor) -> torch.Tensor:
    """Return the lowest index, along the last axis, of the elements that are the greatest."""
    places = torch.arange(values.shape[-1])
    return torch.where(values == values.amax(-1, keepdim=True), places, values.shape[-1]).amin(-1)
