"""Blocks that gather a block of elements in one of two banks while the other leaves (hw/common/mase_block_banks)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from mase.blocks.unit import Behind
from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats.grid import Grid

FILL, LEAVE, BANK = "fill", "leave", "bank"
BANKS = 2
CONTROL = 4  # flip-flops: two full banks, bank that fills, bank that leaves


def paced(rows: int, cols: int, block: int, lanes: Count) -> Count:
    """Return the cycles of a sample.

    A block that ends a row early frees its bank early, but the block after it waits for the other bank, where a whole
    block leaves meanwhile: so every block of a row takes the time of a whole one, unless there is just one.
    """
    beats, size = ceil_div(cols, lanes), np.maximum(1, block // lanes)
    return rows * np.where(beats > size, ceil_div(beats, size) * size, beats)


def banks(rows: int, cols: int, block: int, lanes: Count, bits: Count) -> Part:
    """Return hw/common/mase_block_banks; ``bits``: of what is kept of a beat."""
    beats, size = ceil_div(cols, lanes), np.maximum(1, block // lanes)
    beside = control(CONTROL + 3 * np.equal(size, 1), (beats, beats, size, size, rows))
    return beside & Part(Work(banks=((bits, BANKS * size),), registers=bits))


@dataclass(frozen=True, eq=False)
class Gathered(Pipe):
    """Turn a stream of exact integers into blocks, ``lanes`` a beat, through two banks.

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

    def __post_init__(self) -> None:
        check_lanes(self.sv_module.removeprefix("mase_"), self.grid, self.lanes)

    @property
    @abstractmethod
    def normaliser(self) -> Behind:
        """All that its hardware depends on but the lanes."""

    @property
    def stream_in(self) -> StreamType:
        top = (1 << self.in_width - 1) - 1
        return StreamType(self.rows, self.cols, self.lanes, Grid(self.in_width, True, -top - 1, top, self.unit))

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.grid)

    def schedule(self) -> Schedule:
        beats = self.stream_in.row_beats
        size = max(1, self.grid.block // self.lanes)
        whole, rest = divmod(beats, size)
        fill = tuple(Loop(n, (_fill(k),)) for n, k in ((whole, size), (1, rest)) if n and k)
        leave = tuple(Loop(n, (_leave(k),)) for n, k in ((whole, size), (1, rest)) if n and k)
        actors = (
            Actor(FILL, (Loop(self.rows, fill),), {BANK: 1}),
            Actor(LEAVE, (Loop(self.rows, leave),), {OUT: self.latency}),
        )
        cycles = int(paced(self.rows, self.cols, self.grid.block, self.lanes))
        return Schedule(actors, (Channel((FILL, BANK), (LEAVE, BANK), BANKS),), cycles)

    def part(self) -> Part:
        return self.normaliser.part(self.lanes, self.fifo)


def _fill(beats: int) -> Loop:
    """Take the beats of one block; the bank is acquired with the first and published with the last."""
    steps = tuple(
        Step((IN,), (IN,), (BANK,) * (i == 0), (BANK,) * (i == beats - 1)) for i in (0, beats - 1)[: min(beats, 2)]
    )
    return _spread(beats, steps, Step((IN,), (IN,)))


def _leave(beats: int) -> Loop:
    """Give the beats of one block; the bank is taken with the first and freed with the last."""
    steps = tuple(
        Step((BANK,) * (i == 0), (BANK,) * (i == beats - 1), (OUT,), (OUT,)) for i in (0, beats - 1)[: min(beats, 2)]
    )
    return _spread(beats, steps, Step((), (), (OUT,), (OUT,)))


def _spread(beats: int, ends: tuple[Step, ...], middle: Step) -> Loop:
    if beats <= 2:
        return Loop(1, ends)
    return Loop(1, (ends[0], Loop(beats - 2, (middle,)), ends[1]))
