"""Some positions of an axis of a stream (hw/slice)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from mase.blocks.concat import beat_bits
from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, clog2, comparison
from mase.formats import Code
from mase.formats.grid import Grid


class Cut(NamedTuple):
    """Say which positions of an axis count: ``kept`` of them from ``first`` on, every ``step``-th.

    Args:
        outer: how often the axis stands in a sample. size: its positions. inner: rows of each; 0 where the axis is that
            of the columns, and a position is one element.
    """

    outer: int
    size: int
    inner: int
    first: int
    step: int
    kept: int

    @property
    def wide(self) -> bool:
        """Tell whether elements of a row are cut off."""
        return self.inner == 0

    def legal(self, lanes: Count) -> Count:
        """Tell which lanes cut between beats, and leave zeros in the tail."""
        if not self.wide:
            return lanes > 0
        whole = (self.kept % lanes == 0) | (self.first + self.kept == self.size)
        return (lanes == 1) | ((self.step == 1) & (self.first % lanes == 0) & whole)

    def beats(self, cols: int, lanes: Count) -> tuple[Count, Count, Count, Count]:
        """Return positions, beats of each, the first one and the number of those that count, all in beats."""
        if not self.wide:
            return self.size, self.inner * ceil_div(cols, lanes), self.first, self.kept
        return ceil_div(self.size, lanes), 1, self.first // lanes, ceil_div(self.kept, lanes)


@dataclass(frozen=True, eq=False)
class Slice(Pipe):
    """Keep the positions of a cut."""

    source: StreamType
    cut: Cut
    sv_module: ClassVar[str] = "mase_slice"

    def __post_init__(self) -> None:
        source, cut = self.source, self.cut
        assert cut.legal(source.lanes)
        assert cut.first >= 0 and cut.first + (cut.kept - 1) * cut.step < cut.size and cut.kept > 0
        if cut.wide:
            assert (source.rows, source.cols) == (cut.outer, cut.size)
            assert cut.first % max(1, source.grid.block) == 0
        else:
            assert source.rows == cut.outer * cut.size * cut.inner

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        source, cut = self.source, self.cut
        if cut.wide:
            return StreamType(source.rows, cut.kept, source.lanes, source.grid)
        return StreamType(cut.outer * cut.kept * cut.inner, source.cols, source.lanes, source.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        code, cut, block = inputs[0], self.cut, max(1, self.source.grid.block)
        if code.exponent is None:
            return (Code(self._kept(code.mantissa, cut.first, cut.kept)),)
        blocks = (cut.first // block, -(-cut.kept // block)) if cut.wide else (cut.first, cut.kept)
        return (Code(self._kept(code.mantissa, cut.first, cut.kept), self._kept(code.exponent, *blocks)),)

    def _kept(self, x: Tensor, first: int, count: int) -> Tensor:
        cut = self.cut
        span = slice(first, first + (count - 1) * cut.step + 1, cut.step)
        if cut.wide:
            return x[..., span]
        return x.reshape(len(x), cut.outer, cut.size, cut.inner, x.shape[-1])[:, :, span].reshape(
            len(x), cut.outer * count * cut.inner, x.shape[-1]
        )

    def schedule(self) -> Schedule:
        size, inner, first, count = self.cut.beats(self.source.cols, self.source.lanes)
        drop, keep, gap = Step((IN,), (IN,)), stream(take=True, produce=True), self.cut.step - 1
        rest = size - first - (count - 1) * self.cut.step - 1
        between = (*_loops((inner, keep)), *_loops((gap * inner, drop)))
        axis = (
            *_loops((first * inner, drop)),
            *((Loop(count - 1, between),) if count > 1 else ()),
            *_loops((inner, keep), (rest * inner, drop)),
        )
        return Schedule((Actor("", (Loop(self.cut.outer, axis),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        size, inner, first, count = self.cut.beats(self.source.cols, self.source.lanes)
        return {
            "Width": self.source.bits,
            "Outer": self.cut.outer,
            "Size": size,
            "Inner": inner,
            "First": first,
            "Step": self.cut.step,
            "Count": count,
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return slice_part(self.source.grid, self.source.cols, self.cut, self.source.lanes, self.fifo)


def slice_part(grid: Grid, cols: int, cut: Cut, lanes: Count, fifo: Count) -> Part:
    """Return what a slice is made of at any number of lanes."""
    size, inner, _, _ = cut.beats(cols, lanes)
    places = clog2(size + 1)
    following = Part(Work(adders=((1, places), (1, comparison(places))), muxes=((places, 2),)))  # the next place kept
    counted = control(counters=(inner, size + 1, size + 1, size + 1, cut.outer))
    return counted & following >> credit_fifo(beat_bits(grid, lanes) + 1, fifo)


def _loops(*runs: tuple[int, Step]) -> tuple[Loop, ...]:
    return tuple(Loop(count, (step,)) for count, step in runs if count)
