"""Statistics of each row in exact integers: sum of squares, spread and sum, or the greatest (hw/row_stats)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.blocks.root import argument_width, halves
from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, clog2, comparison, constant_product, tree
from mase.formats import Code
from mase.formats.grid import Grid, signed_width


@dataclass(frozen=True)
class Stats:
    """a = sum q^2 + eps, or centred a = cols * sum q^2 - (sum q)^2 + eps beside s = sum q; or a = max q.

    No mean is formed and nothing is divided, so all is exact, and any order of summing gives the same.

    Args:
        cols: elements of a row. x: grid of the input, integers q with their exponents. eps: 1 or more.
        maximum: a is the greatest q, and not centred.
    """

    cols: int
    x: Grid
    centred: bool
    eps: int
    maximum: bool = False

    def __post_init__(self) -> None:
        assert not (self.maximum and self.centred)

    @property
    def most(self) -> int:
        """Bound of a."""
        squares = self.cols * self.x.reach**2
        return (self.cols * squares if self.centred else squares) + self.eps

    @property
    def sum_bits(self) -> int:
        """Bits of s; 0 where there is none."""
        reach = self.cols * self.x.reach
        return signed_width(-reach, reach) if self.centred else 0

    @property
    def lanes(self) -> int:
        """Numbers of a result."""
        return 2 if self.centred else 1

    @property
    def grid(self) -> Grid:
        """Codes of the results."""
        if self.maximum:
            low, high = self.x.low << self.x.span, self.x.high << self.x.span
            return Grid(signed_width(low, high), True, low, high, self.x.unit)
        width = argument_width(self.most, self.sum_bits)
        return Grid(width, True, -(1 << width - 1), (1 << width - 1) - 1)

    def apply(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and s of int64 rows ``[..., cols]``; s is 0 where it is not centred."""
        if self.maximum:
            return q.amax(-1, keepdim=True), torch.zeros_like(q[..., :1])
        squares, s = (q * q).sum(-1, keepdim=True), q.sum(-1, keepdim=True)
        if not self.centred:
            return squares + self.eps, torch.zeros_like(s)
        return self.cols * squares - s * s + self.eps, s

    def scalar(self, row: list[int]) -> tuple[int, int]:
        """Do the same for one row of Python integers."""
        if self.maximum:
            return max(row), 0
        squares, s = sum(q * q for q in row), sum(row)
        return (self.cols * squares - s * s + self.eps, s) if self.centred else (squares + self.eps, 0)


@dataclass(frozen=True, eq=False)
class RowStats(Pipe):
    """The unit on ``lanes`` elements a cycle; one result a row."""

    rows: int
    lanes: int
    stats: Stats
    sv_module: ClassVar[str] = "mase_row_stats"

    def __post_init__(self) -> None:
        check_lanes("row_stats", self.stats.x, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.stats.cols, self.lanes, self.stats.x)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.stats.lanes, self.stats.lanes, self.stats.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        a, s = self.stats.apply(self.stats.x.integers(inputs[0], torch.int64))
        return (Code(torch.cat([a, s], -1) if self.stats.centred else a),)

    def schedule(self) -> Schedule:
        beats = self.stream_in.row_beats
        take, give = Step((IN,), (IN,)), Step((IN,), (IN,), (OUT,), (OUT,))
        row = (Loop(beats - 1, (take,)), give) if beats > 1 else (give,)
        return Schedule((Actor("", (Loop(self.rows, row),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        x = self.stats.x
        return {
            "Rows": self.rows,
            "Cols": self.stats.cols,
            "Lanes": self.lanes,
            "XWidth": x.width,
            "XSigned": int(x.signed),
            "XExpBits": x.exp_bits,
            "XBlock": max(1, x.block),
            "Centred": int(self.stats.centred),
            "Maximum": int(self.stats.maximum),
            **halves("Eps", self.stats.eps),
            "OutWidth": self.stats.grid.width,
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return stats_part(self.rows, self.stats, self.lanes, self.fifo)


def stats_latency(lanes: Count) -> Count:
    """Return the cycles from the last beat of a row to its result."""
    return 6 + clog2(lanes)


def stats_fifo(cols: int, lanes: Count) -> Count:
    """Return a FIFO depth that keeps the rate."""
    return ceil_div(stats_latency(lanes), ceil_div(cols, lanes)) + 2


def stats_part(rows: int, stats: Stats, lanes: Count, fifo: Count) -> Part:
    """Return what it is made of at any number of lanes."""
    x, width = stats.x, stats.grid.width
    wide = x.element_bits + ((1 << x.exp_bits) - 1 if x.block else 0)
    if stats.maximum:
        return _most_part(rows, stats, wide, lanes) >> credit_fifo(width + 1, fifo)
    square, out = min(2 * wide, width), width * stats.lanes
    centred = int(stats.centred)  # else nothing asks for the sums of the elements
    trees = (*tree(lanes, wide, width, 1) * centred, *tree(lanes, square, width, 1))
    products = ((1, width, width), *constant_product(1, width, stats.cols)) * centred
    sums = Work(
        multipliers=((lanes, wide, wide), *products),
        adders=(
            *((adders, bits) for adders, _, bits in trees),
            (2 + centred, width),
        ),  # a difference is part of the square of a sum
        shifters=((lanes, wide, (1 << x.exp_bits) - 1),) * (x.block > 0),
        registers=lanes * ((1 + centred) * wide + square)
        + sum(n * bits for _, n, bits in trees)
        + (3 + 3 * centred) * width
        + 6,
        delays=((3, stats_latency(lanes) - 4),),
        counters=(ceil_div(stats.cols, lanes), rows),
    )
    return Part(sums, latency=stats_latency(lanes) - 1) >> credit_fifo(out + 1, fifo)


def _most_part(rows: int, stats: Stats, wide: int, lanes: Count) -> Part:
    """Return all before the output FIFO of the greatest of each row, of elements of ``wide`` bits."""
    levels = tree(lanes, wide, wide, 1)
    beats, shifts = ceil_div(stats.cols, lanes), ((lanes, wide, (1 << stats.x.exp_bits) - 1),) * (stats.x.block > 0)
    sums = Work(
        adders=tuple((compared, comparison(wide)) for compared in (*(n for n, _, _ in levels), 1)),
        muxes=(*((compared * wide, 2) for compared, _, _ in levels), (wide, 2), (lanes * wide, 2)),
        shifters=shifts,
        registers=2 * lanes * wide + sum(n * wide for _, n, _ in levels) + 3 * wide + 6,
        delays=((3, stats_latency(lanes) - 4),),
        counters=(beats, rows),
    )
    return Part(sums, latency=stats_latency(lanes) - 1)


def rows_of(x: Grid, code: Code) -> list[list[int]]:
    """Return rows of Python integers, with their exponents, of codes ``[samples, rows, cols]``."""
    mantissas = code.mantissa.flatten(0, 1).tolist()
    if code.exponent is None:
        return [[int(q) for q in row] for row in mantissas]
    exponents = code.exponent.flatten(0, 1).tolist()
    return [
        [q << exps[i // x.block] - x.base for i, q in enumerate(row)]
        for row, exps in zip(mantissas, exponents, strict=True)
    ]
