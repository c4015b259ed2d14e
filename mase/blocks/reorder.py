"""The elements of a sample in another order, from a buffer of two samples (hw/reorder)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mase.blocks.concat import beat_bits
from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, clog2
from mase.formats import Code
from mase.formats.grid import Grid

FILL, LEAVE, BANK = "fill", "leave", "bank"
BANKS = 2
LOOPS = 5


class Nest(NamedTuple):
    """Loops over places, the outermost first: place = start + sum of (count of a loop * its stride).

    Args:
        loops: (times, stride) of each.
    """

    start: int
    loops: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, places: npt.NDArray[np.int64]) -> Nest | None:
        """Return the nest with the fewest loops that visits places in this order; None if there is none."""
        start, loops, left = int(places[0]), list[tuple[int, int]](), places
        while len(left) > 1:
            stride = int(left[1] - left[0])
            breaks = np.flatnonzero(np.diff(left) != stride)
            times = int(breaks[0]) + 1 if breaks.size else len(left)
            if len(left) % times or (left.reshape(-1, times) - left[::times, None] != np.arange(times) * stride).any():
                return None
            loops.insert(0, (times, stride))
            left = left[::times]
        return cls(start, tuple(loops))

    @property
    def size(self) -> int:
        """Places visited."""
        return int(np.prod([times for times, _ in self.loops], dtype=np.int64))

    def places(self) -> npt.NDArray[np.int64]:
        """Return the places in the order in which they are visited."""
        found = np.array([self.start], np.int64)
        for times, stride in self.loops:
            found = (found[:, None] + np.arange(times) * stride).ravel()
        return found

    def steps(self) -> tuple[tuple[int, int], ...]:
        """Return, for each loop, its times and how far the place moves where it goes on and inner ones begin again."""
        out, back = list[tuple[int, int]](), 0
        for times, stride in reversed(self.loops):
            out.insert(0, (times, stride - back))
            back += (times - 1) * stride
        return tuple(out)


@dataclass(frozen=True)
class Order:
    """A nest over the elements of a sample, between rows of ``before`` columns and rows of ``after``.

    Args:
        size: elements of a sample that comes.
    """

    nest: Nest
    size: int
    before: int
    after: int

    def legal(self, lanes: int) -> bool:
        """Tell whether beats move whole."""
        return lanes == 1 or self._by_row() is not None or self._by_run(lanes) is not None

    def words(self, lanes: int) -> tuple[int, Nest]:
        """Return the beats of a sample that comes, and the nest over beats."""
        if lanes == 1:
            return self.size, self.nest
        if (rows := self._by_row()) is not None:
            beats = -(-self.before // lanes)
            loops = (*((times, stride * beats) for times, stride in rows.loops), (beats, 1))
            return self.size // self.before * beats, Nest(rows.start * beats, _merged(loops))
        runs = self._by_run(lanes)
        assert runs is not None
        return self.size // lanes, runs

    def _by_row(self) -> Nest | None:
        """Return the nest over rows, where rows move whole, with their tails."""
        start, loops = self.nest
        if self.before > 1:
            times, stride = loops[-1] if loops else (1, 1)
            if stride != 1 or times % self.before:
                return None
            loops = (*loops[:-1], (times // self.before, self.before))
        return None if self.before != self.after else _divided(start, loops, self.before)

    def _by_run(self, lanes: int) -> Nest | None:
        """Return the nest over runs of elements, where they move whole and no beat has a tail."""
        start, loops = self.nest
        times, stride = loops[-1] if loops else (1, 1)
        if stride != 1 or any(n % lanes for n in (times, self.before, self.after)):
            return None
        return _divided(start, (*loops[:-1], (times // lanes, lanes)), lanes)


def _divided(start: int, loops: Sequence[tuple[int, int]], size: int) -> Nest | None:
    """Return the nest over groups of so many places; None where it does not move them whole."""
    if any(n % size for n in (start, *(stride for _, stride in loops))):
        return None
    return Nest(start // size, _merged(tuple((times, stride // size) for times, stride in loops)))


def _merged(loops: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Leave out loops that run once."""
    return tuple(loop for loop in loops if loop[0] > 1)


@dataclass(frozen=True, eq=False)
class Reorder(Pipe):
    """Give the elements of each sample by a nest of loops.

    Args:
        source, target: streams, with equal lanes and grids; where there are blocks, they move whole.
    """

    source: StreamType
    target: StreamType
    order: Order
    sv_module: ClassVar[str] = "mase_reorder"

    def __post_init__(self) -> None:
        a, b = self.source, self.target
        assert a.grid == b.grid and a.lanes == b.lanes and self.order.legal(a.lanes)
        assert (a.cols, b.cols, a.rows * a.cols) == (self.order.before, self.order.after, self.order.size)
        assert self.order.nest.size == b.rows * b.cols
        assert len(self.words[1].loops) <= LOOPS

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        return self.target

    @property
    def words(self) -> tuple[int, Nest]:
        """Words of a bank, and the nest that reads them."""
        return self.order.words(self.source.lanes)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        code, a, b = inputs[0], self.source, self.target
        places, n = torch.from_numpy(self.order.nest.places()), len(code.mantissa)
        mantissa = code.mantissa.reshape(n, -1)[:, places].reshape(n, b.rows, b.cols)
        if code.exponent is None:
            return (Code(mantissa),)
        heads = places.reshape(b.rows, b.cols)[:, :: a.grid.block]  # the first element of each block
        blocks = heads // a.cols * code.exponent.shape[-1] + heads % a.cols // a.grid.block
        return (Code(mantissa, code.exponent.reshape(n, -1)[:, blocks.flatten()].reshape(n, b.rows, -1)),)

    def schedule(self) -> Schedule:
        words, nest = self.words
        fill = _bank(words, lambda first, last: Step((IN,), (IN,), (BANK,) * first, (BANK,) * last))
        leave = _bank(nest.size, lambda first, last: Step((BANK,) * first, (BANK,) * last, (OUT,), (OUT,)))
        actors = (Actor(FILL, fill, {BANK: 1}), Actor(LEAVE, leave, {OUT: self.latency}))
        return Schedule(actors, (Channel((FILL, BANK), (LEAVE, BANK), BANKS),))

    def sv_params(self) -> Mapping[str, int]:
        words, nest = self.words
        steps = ((1, 0),) * (LOOPS - len(nest.loops)) + nest.steps()
        return {
            "Width": self.source.bits,
            "Words": words,
            "Start": nest.start,
            **{f"Count{i}": times for i, (times, _) in enumerate(steps)},
            **{f"Step{i}": step for i, (_, step) in enumerate(steps)},
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return reorder_part(self.source.grid, self.order, self.source.lanes, self.fifo)


def reorder_part(grid: Grid, order: Order, lanes: Count, fifo: Count) -> Part:
    """Return what a reorder buffer is made of at any number of lanes."""
    bits, words = beat_bits(grid, lanes), order.size // order.before * ceil_div(order.before, lanes)
    address = clog2(BANKS * words)
    counters = [times for times, _ in order.nest.loops[:-1]]
    inner = ceil_div(order.nest.loops[-1][0] if order.nest.loops else 1, lanes)
    nest = Part(
        Work(
            registers=5,
            adders=((2, address),),
            muxes=((address, len(order.nest.loops) + 1),),
            counters=(*counters, inner, BANKS * words, BANKS * words),
        )
    )
    memory = Part(Work(buffers=((bits, BANKS * words),)), latency=1)
    return nest & memory.along() >> credit_fifo(bits + 1, fifo)


def _bank(count: int, step: Callable[[bool, bool], Step]) -> tuple[Step | Loop, ...]:
    """Return so many steps, told which of them are the first and the last of a bank."""
    if count == 1:
        return (step(True, True),)
    middle = (Loop(count - 2, (step(False, False),)),) if count > 2 else ()
    return (step(True, False), *middle, step(False, True))
