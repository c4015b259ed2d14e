"""Bring blocks to one exponent for each group of rows, before a sum over these rows starts (hw/align)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mase.blocks.concat import beat_bits
from mase.dataflow.block import MemoryImage, Pipe, pack_words
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.base import pow2
from mase.formats.grid import Grid
from mase.formats.whole import whole

FILL, LEAVE, BANK = "fill", "leave", "bank"
BANKS = 2
LATENCY = 3
CONTROL = 8  # flip-flops: two full banks, bank that fills, bank that leaves, two each of valid and last
GUARD = 8  # bits that a sum keeps below the greatest exponent of its terms


@dataclass(frozen=True, eq=False)
class Alignment:
    """What becomes of the rows of each group of ``taps``, in integers.

    Args:
        x: grid of the rows, which has blocks. guard: bits kept below the greatest exponent of a block in a group.
        least: int64 ``[blocks]``, exponents above the base that the common ones are never below; None: 0.
    """

    x: Grid
    taps: int
    guard: int = GUARD
    least: Tensor | None = None

    @property
    def grid(self) -> Grid:
        """Grid of the result: integers with room for the guard bits, and the exponent of their group."""
        x, guard = self.x, self.guard
        span = x.span if self.least is None else max(x.span, int(self.least.max()))
        return replace(
            x,
            width=x.element_bits + guard,
            signed=True,
            low=x.low << guard,
            high=x.high << guard,
            unit=x.unit - guard,
            span=span,
        )

    def apply(self, rows: Code) -> Code:
        """Return codes ``[samples, groups * taps, cols]`` on :attr:`grid`."""
        assert rows.exponent is not None
        exponent = rows.exponent.unflatten(1, (-1, self.taps))
        top = exponent.amax(2, keepdim=True)
        if self.least is not None:
            top = torch.maximum(top, self.least + self.x.base)
        down = (top - exponent).flatten(1, 2).repeat_interleave(self.x.block, -1)[..., : rows.mantissa.shape[-1]]
        mantissa = (rows.mantissa.double() * pow2(self.guard - down)).floor_()
        return Code(whole(mantissa), top.expand_as(exponent).flatten(1, 2))

    def scalar(self, column: list[tuple[int, int]], block: int) -> tuple[list[int], int]:
        """Return the integers of one column and their exponent: the oracle of :meth:`apply`.

        Args:
            column: mantissas, and exponents above the base. block: of the column.
        """
        top = max([0 if self.least is None else int(self.least[block]), *(e for _, e in column)])
        return [(x << self.guard) >> top - e for x, e in column], top


@dataclass(frozen=True)
class AlignFoldings:
    """The block before its lanes are known.

    Args:
        x: grid of the rows. guard, taps: as of :class:`Alignment`. groups, cols: sizes. floors: it has ``least``.
    """

    x: Grid
    guard: int
    taps: int
    groups: int
    cols: int
    floors: bool

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""
        return self.groups * self.taps * ceil_div(self.cols, lanes)

    def fifo(self) -> int:
        """Return a FIFO depth that keeps the rate."""
        return LATENCY + 2

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any number of lanes."""
        beats, wide = ceil_div(self.cols, lanes), self.x.element_bits + self.guard
        exps, words = np.maximum(1, lanes // self.x.block), BANKS * self.taps * beats
        top = exps * self.x.exp_bits
        out = lanes * wide + top
        work = Work(
            adders=((exps * (2 + self.floors), self.x.exp_bits),),
            muxes=((top * (1 + self.floors), 2),),
            shifters=((lanes, wide, self.x.span),),
            registers=CONTROL + top + out,
            roms=((top, beats),) * self.floors,
            buffers=((beat_bits(self.x, lanes), words),),
            banks=((top, BANKS * beats),) * 2,
            counters=(beats, self.taps, beats, self.taps, self.groups, words, words),
        )
        return Part(work, latency=LATENCY - 1) >> credit_fifo(out + 1, fifo)


@dataclass(frozen=True, eq=False)
class Align(Pipe):
    """Align each ``taps`` rows of a stream, ``lanes`` columns a cycle, through two banks.

    Args:
        groups: of a sample. cols: of a row.
    """

    groups: int
    cols: int
    lanes: int
    alignment: Alignment
    sv_module: ClassVar[str] = "mase_align"

    def __post_init__(self) -> None:
        check_lanes("align", self.alignment.x, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.groups * self.alignment.taps, self.cols, self.lanes, self.alignment.x)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.groups * self.alignment.taps, self.cols, self.lanes, self.alignment.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.alignment.apply(inputs[0]),)

    def schedule(self) -> Schedule:
        beats = self.alignment.taps * self.stream_in.row_beats
        fill = Loop(self.groups, _bank(beats, (IN,), (), fills=True))
        leave = Loop(self.groups, _bank(beats, (), (OUT,), fills=False))
        actors = (Actor(FILL, (fill,), {BANK: 1}), Actor(LEAVE, (leave,), {OUT: LATENCY}))
        return Schedule(actors, (Channel((FILL, BANK), (LEAVE, BANK), BANKS),))

    def sv_params(self) -> Mapping[str, int]:
        made, x = self.alignment, self.alignment.x
        return {
            "Groups": self.groups,
            "Taps": made.taps,
            "Beats": self.stream_in.row_beats,
            "Lanes": self.lanes,
            "Width": x.width,
            "Signed": int(x.signed),
            "ExpBits": x.exp_bits,
            "Block": x.block,
            "Guard": made.guard,
            "OutWidth": made.grid.width,
            "HasLeast": int(made.least is not None),
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        if self.alignment.least is None:
            return {}
        x, stream = self.alignment.x, self.stream_in
        exps = max(1, self.lanes // x.block)
        first = np.arange(stream.row_beats)[:, None] * self.lanes // x.block + np.arange(exps)
        least = np.pad(self.alignment.least.numpy(), (0, exps))[first]
        layout = f"word b holds the least exponents of the blocks of beat b, at bit i * {x.exp_bits}"
        return {"LeastFile": MemoryImage(exps * x.exp_bits, pack_words(least, x.exp_bits), layout)}

    @property
    def foldings(self) -> AlignFoldings:
        """All that its hardware depends on but the lanes."""
        made = self.alignment
        return AlignFoldings(made.x, made.guard, made.taps, self.groups, self.cols, made.least is not None)

    def part(self) -> Part:
        return self.foldings.part(self.lanes, self.fifo)


def _bank(beats: int, takes: tuple[str, ...], gives: tuple[str, ...], fills: bool) -> tuple[Step | Loop, ...]:
    """Return the steps of one bank: acquired with the first and passed on with the last."""

    def step(first: bool, last: bool) -> Step:
        begin, end = (BANK,) * first, (BANK,) * last
        return Step(takes, takes, begin, end) if fills else Step(begin, end, gives, gives)

    if beats == 1:
        return (step(True, True),)
    middle = (Loop(beats - 2, (step(False, False),)),) if beats > 2 else ()
    return (step(True, False), *middle, step(False, True))
