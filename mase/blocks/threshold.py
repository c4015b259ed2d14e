"""Functions of few values that never fall: y = low + how many thresholds x has reached (hw/threshold)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo, last_call
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, tile_lanes
from mase.formats import Code
from mase.formats.grid import Grid

LATENCY = 2  # the sum, then the output FIFO
MOST = 15  # thresholds: results of 4 bits
WIDEST = 31  # bits of a code, as the parameters hold them
LISTED = 16  # bits up to which a function is tried at every code


@dataclass(frozen=True)
class Steps:
    """y = low + the number of ``thresholds`` that x has reached, in ascending order.

    Args:
        x, y: grids without exponents.
    """

    x: Grid
    y: Grid
    low: int
    thresholds: tuple[int, ...]

    @classmethod
    def of(
        cls, x: Grid, y: Grid, codes: Callable[[Tensor], Tensor], rising: bool, first: int | None = None
    ) -> Self | None:
        """Find the steps of a function on all codes; None where it falls somewhere, or has too many values.

        Args:
            codes: the function, on int64 of any shape. rising: it is known never to fall, so that few codes decide.
            first: the least code that can come; None: that of the grid.
        """
        low = x.low if first is None else first
        if x.block or y.block or x.pattern or y.pattern or x.width > WIDEST or not (rising or x.width <= LISTED):
            return None
        ends = [int(code) for code in codes(torch.tensor([low, x.high])).tolist()]
        if not 0 < ends[1] - ends[0] <= MOST:
            return None
        if x.width <= LISTED:
            every = codes(torch.arange(low, x.high + 1))
            if bool((every.diff() < 0).any()):
                return None
            reached = [low + int((every < y_code).sum()) for y_code in range(ends[0] + 1, ends[1] + 1)]
        else:
            reached = [_first(low, x.high, codes, y_code) for y_code in range(ends[0] + 1, ends[1] + 1)]
        return cls(x, y, ends[0], tuple(reached))

    def codes(self, x: Tensor) -> Tensor:
        """Return results: vectorised."""
        return self.low + torch.bucketize(x.contiguous(), torch.tensor(self.thresholds), right=True)

    def scalar(self, x: int) -> int:
        """Return one result: the oracle."""
        return self.low + sum(x >= threshold for threshold in self.thresholds)


def _first(low: int, high: int, codes: Callable[[Tensor], Tensor], wanted: int) -> int:
    """Return the least code from low to high whose result is not below another, by halving."""
    while low < high:
        middle = (low + high) // 2
        if int(codes(torch.tensor([middle]))[0]) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class ThresholdFoldings(Foldings):
    """The unit before it is folded: shape, bits of a code, thresholds, bits of a result."""

    rows: int
    cols: int
    x_bits: int
    thresholds: int
    out_bits: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.rows * ceil_div(self.cols, pe)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": LATENCY + 2}

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        """Return all before the output FIFO."""
        beats, bits = ceil_div(self.cols, pe), self.out_bits
        lane = Work(
            gates=((self.thresholds, self.x_bits),),  # comparisons with constants
            adders=((self.thresholds - 1, bits),),
            registers=bits,
        )
        padded = Part(Work(muxes=((pe * bits * np.not_equal(self.cols % pe, 0), 2),)))
        summed: Part = pe * Part(lane, latency=1)
        return control(counters=(self.rows * beats, beats)) & padded & summed.along(1)

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": (self.path(simd, pe) >> credit_fifo(pe * self.out_bits + 1, fifos[""])).work}


@dataclass(frozen=True, eq=False)
class Threshold(Pipe):
    """The unit on ``lanes`` elements a cycle."""

    rows: int
    cols: int
    lanes: int
    steps: Steps
    sv_module: ClassVar[str] = "mase_threshold"

    def __post_init__(self) -> None:
        check_lanes("threshold", self.steps.x, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.steps.x)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.steps.y)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (Code(self.steps.codes(inputs[0].mantissa)),)

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        steps, count = self.steps, len(self.steps.thresholds)
        listed = (*steps.thresholds, *[0] * (MOST - count))
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "Cols": self.cols,
            "XWidth": steps.x.width,
            "XSigned": int(steps.x.signed),
            "OutWidth": steps.y.width,
            "Low": steps.low,
            "Count": count,
            **{f"T{i}": threshold for i, threshold in enumerate(listed)},
            "FifoDepth": self.fifo,
        }

    @cached_property
    def foldings(self) -> ThresholdFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        steps = self.steps
        return ThresholdFoldings(self.rows, self.cols, steps.x.width, len(steps.thresholds), steps.y.width)

    def part(self) -> Part:
        path = self.foldings.path(self.lanes, self.lanes)
        return path >> credit_fifo(self.lanes * self.steps.y.width + 1, self.fifo)
