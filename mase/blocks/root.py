"""Reciprocal or inverse square root of each number, by its definition as an exact floor (hw/root)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, comparison
from mase.formats import Code
from mase.formats.grid import Grid, signed_width
from mase.formats.whole import whole

POWERS = (1, 2)
HALF = 31  # bits of a parameter; wide constants come in two
MOST_BITS = 31  # of a root, so that its square is an integer of int64
UNROLLS = (1, 2, 4)  # bits a cycle
FIFO = 4  # one is worked out, one is on its way, two wait: keeps the rate


@dataclass(frozen=True)
class Roots:
    """r = max { r < 2**bits : r**power * a <= top } for each number a of 1 or more.

    Args:
        power: 1 or 2. bits: of a root. top: constant, below 2**62. most: greatest a.
    """

    power: int
    bits: int
    top: int
    most: int

    def __post_init__(self) -> None:
        assert self.power in POWERS and 1 <= self.bits <= MOST_BITS
        assert 1 <= self.top < 1 << 2 * HALF and 1 <= self.most < 1 << 2 * HALF

    def apply(self, a: Tensor) -> Tensor:
        """Return the roots of int64 numbers: exact, by a guess in float64 and one step of correction."""
        quotient = torch.div(torch.full_like(a, self.top), a.clamp_min(1), rounding_mode="floor")
        if self.power == 2:
            guess = whole(quotient.double().sqrt().floor())
            guess = torch.where(guess * guess > quotient, guess - 1, guess)
            quotient = torch.where((guess + 1) * (guess + 1) <= quotient, guess + 1, guess)
        return quotient.clamp_max((1 << self.bits) - 1)

    def scalar(self, a: int) -> int:
        """Do the same for one Python integer."""
        found = self.top // a
        return min(isqrt(found) if self.power == 2 else found, (1 << self.bits) - 1)


def dwell(bits: Count, unroll: Count) -> Count:
    """Return the cycles of one root."""
    return ceil_div(bits, unroll) + 1


def unrolled(bits: int, beats: Count) -> Count:
    """Return the least bits a cycle that keep a root in so many cycles; the most there are where none do."""
    return np.select([dwell(bits, n) <= beats for n in UNROLLS], UNROLLS, UNROLLS[-1])


@dataclass(frozen=True, eq=False)
class Root(Pipe):
    """The unit: one number a row, or two of which the second passes beside the root.

    Args:
        source: rows of one number, or of two in one beat. also: bits of the second, 0 without one. unroll: bits a
            cycle.
    """

    source: StreamType
    roots: Roots
    also: int = 0
    unroll: int = 1
    sv_module: ClassVar[str] = "mase_root"

    def __post_init__(self) -> None:
        lanes = 2 if self.also else 1
        assert (self.source.cols, self.source.lanes, self.source.grid.block) == (lanes, lanes, 0)
        assert self.roots.most <= self.source.grid.high and self.also <= self.source.grid.width

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.source.rows, self.source.cols, self.source.lanes, root_grid(self.roots.bits, self.also))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        x = whole(inputs[0].mantissa)
        roots = self.roots.apply(x[..., :1])
        return (Code(torch.cat([roots, x[..., 1:]], -1)),)

    def schedule(self) -> Schedule:
        cycles = dwell(self.roots.bits, self.unroll)
        body = (Loop(self.source.rows, (Step((IN,), (IN,), (OUT,), (OUT,), cycles),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Rows": self.source.rows,
            "Power": self.roots.power,
            "Bits": self.roots.bits,
            "Unroll": self.unroll,
            "ArgWidth": self.source.grid.width,
            "Also": self.also,
            **halves("Top", self.roots.top),
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return root_part(self.source.rows, self.source.grid.width, self.roots, self.also, self.unroll, self.fifo)


def root_grid(bits: int, also: int) -> Grid:
    """Return the grid of roots, and of what passes beside them."""
    if not also:
        return Grid(bits, False, 0, (1 << bits) - 1)
    width = max(also, bits + 1)
    return Grid(width, True, -(1 << width - 1), (1 << width - 1) - 1)


def halves(name: str, value: int) -> dict[str, int]:
    """Return a constant of up to 62 bits as two parameters."""
    return {f"{name}High": value >> HALF, f"{name}Low": value & (1 << HALF) - 1}


def root_part(rows: int, width: int, roots: Roots, also: int, unroll: Count, fifo: Count) -> Part:
    """Return what it is made of at any number of bits a cycle."""
    steps = ceil_div(roots.bits, unroll)
    wide = np.maximum(width + roots.power * steps * unroll, 2 * HALF + 1)
    out = root_grid(roots.bits, also).width * (2 if also else 1)
    digits = Work(  # each bit is compared and taken off, of squares the doubled product too
        adders=((roots.power * unroll, wide), (unroll, comparison(wide)), (roots.power == 2, wide)),
        muxes=((wide, 2), (wide, 2), (wide, 2)),
        registers=(2 + (roots.power == 2)) * wide + steps * unroll + also + 2,
        counters=(steps + 1, rows),
    )
    return Part(digits, latency=dwell(roots.bits, unroll)) >> credit_fifo(out + 1, fifo)


def argument_width(most: int, also: int) -> int:
    """Return the bits of a lane that holds numbers up to ``most``, and others of ``also`` bits."""
    return max(signed_width(0, most), also)
