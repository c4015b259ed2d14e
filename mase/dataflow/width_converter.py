"""Re-chunk a stream: other lanes, or other rows over the same elements (hw/common/mase_stream_converter)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mase.dataflow.block import LEAST_FIFO, Pipe
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, Step, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import PE, SIMD, Count, Foldings, Lanes, Work, ceil_div, clog2, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code


@dataclass(frozen=True)
class ConverterFoldings(Foldings):
    """A converter before its lanes are known: those of its neighbours. With equal streams there is none.

    Args:
        before, after: (rows, cols). width, block, exp_bits: of the elements, block and exp_bits 0 without exponents.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    width: int
    block: int
    exp_bits: int
    follows: ClassVar[bool] = True

    @classmethod
    def of(cls, stream: StreamType, after: tuple[int, int] | None = None) -> ConverterFoldings:
        """Build for a stream, from rows to other rows where ``after`` says so; the stream's lanes do not matter."""
        before, grid = (stream.rows, stream.cols), stream.grid
        return cls(before, after or before, grid.width, grid.block, grid.exp_bits)

    @property
    def names(self) -> tuple[str, ...]:
        return SIMD, PE

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(max(self.before[1], self.after[1]), self.block)
        return lanes, lanes

    @classmethod
    def between(cls, come: StreamType, go: StreamType) -> ConverterFoldings:
        """Build for two streams; their lanes do not matter."""
        return cls.of(come, (go.rows, go.cols))

    def absent(self, simd: Count, pe: Count) -> Count:
        """Tell where both streams are the same, so that no converter stands between them."""
        return np.equal(simd, pe) & (self.before == self.after)

    def cycles(self, simd: Count, pe: Count) -> Count:
        """Return the firings of a sample: each takes a beat, gives one, or does both; 0 where there is no converter."""
        simd, pe = np.broadcast_arrays(simd, pe)
        if self.before[1] == self.after[1]:
            rows, cols = self.before
            ins, outs = ceil_div(cols, simd), ceil_div(cols, pe)
            extra = (outs > 1) & (ceil_div((outs - 1) * pe, simd) == ins)  # nothing to take for the last beat
            found = rows * np.maximum(outs, ins + extra)
        else:
            pairs = zip(simd.ravel().tolist(), pe.ravel().tolist(), strict=True)
            found = np.array([_repacked(self.before, self.after, *pair) for pair in pairs]).reshape(simd.shape)
        return np.where(self.absent(simd, pe), 0, found)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": LEAST_FIFO}

    def unit(self, simd: Count, pe: Count) -> Count:
        """Return the elements that move together."""
        unit = np.gcd(simd, pe)
        return unit if self.before[1] == self.after[1] else np.gcd(unit, math.gcd(self.before[1], self.after[1]))

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": self.part(simd, pe, fifos[""]).work}

    def part(self, simd: Count, pe: Count, fifo: Count) -> Part:
        """Return what it is made of: units in a register, then the FIFO."""
        unit = self.unit(simd, pe)
        give, full, width = simd // unit, pe // unit, self._bits(unit)
        capacity, kept = give + full - 1, np.maximum(np.maximum(give, full), 2) - 1
        moved = Work(
            registers=clog2(capacity + 1) + (kept + full) * width + 2,
            muxes=((capacity * width, np.minimum(give, full) + 1), ((give - 1) * width, 3)),
            counters=(ceil_div(self.before[1], simd), ceil_div(self.after[1], pe), self.after[0]),
        )
        return Part(moved, latency=1) >> credit_fifo(self._bits(pe) + 1, fifo)

    def _bits(self, lanes: Count) -> Count:
        exponents = np.maximum(1, lanes // self.block) if self.block else 0
        return lanes * self.width + exponents * self.exp_bits


def _repacked(before: tuple[int, int], after: tuple[int, int], simd: int, pe: int) -> int:
    """Return the firings of a sample whose rows change: a beat leaves with the last of the beats that it needs."""
    rows = math.gcd(before[0], after[0])
    have = _ends(before[0] // rows, before[1], simd)
    taken = np.searchsorted(have, _ends(after[0] // rows, after[1], pe)) + 1
    return rows * int(np.maximum(np.diff(taken, prepend=0), 1).sum())


def _ends(rows: int, cols: int, lanes: int) -> Lanes:
    """Return how many elements have passed after each beat."""
    row = np.minimum(np.arange(1, ceil_div(cols, lanes) + 1) * lanes, cols)
    ends: Lanes = np.arange(rows)[:, None] * cols + row
    return ends.ravel()


@dataclass(frozen=True, eq=False)
class WidthConverter(Pipe):
    """Move elements unchanged from ``source`` to ``target``, which hold the same number of them.

    With equal rows, tails are padded on both sides and rows start together; with different rows (a reshape) elements
    are packed tight. Elements move in *units* of the greatest common divisor of all lane counts.
    """

    source: StreamType
    target: StreamType
    sv_module: ClassVar[str] = "mase_stream_converter"

    def __post_init__(self) -> None:
        a, b = self.source, self.target
        assert a.rows * a.cols == b.rows * b.cols and a.grid == b.grid
        block = a.grid.block
        if block and a.cols != b.cols and (a.cols % block or b.cols % block):
            raise UnsupportedOp(
                f"reshape from rows of {a.cols} to rows of {b.cols}: blocks of {block} do not tile both; "
                "allowed are multiples of the block, or a format without blocks"
            )

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        return self.target

    @property
    def unit(self) -> int:
        """Elements of a unit."""
        return int(self.foldings.unit(self.source.lanes, self.target.lanes))

    @property
    def foldings(self) -> ConverterFoldings:
        """All that its hardware depends on but the lanes."""
        return ConverterFoldings.of(self.source, (self.target.rows, self.target.cols))

    @property
    def aligned(self) -> bool:
        """Tell whether rows start together."""
        return self.source.cols == self.target.cols

    def tail(self, side: StreamType) -> int:
        """Return the units that count in the last beat of a row."""
        if self.aligned and side is self.source:
            return side.lanes // self.unit
        return -(-(side.cols - (side.row_beats - 1) * side.lanes) // self.unit)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        x = inputs[0]
        blocks = None if x.exponent is None else x.exponent.reshape(-1, self.target.rows, _blocks(self.target))
        return (Code(x.mantissa.reshape(-1, self.target.rows, self.target.cols), blocks),)

    def firings(self) -> list[tuple[bool, bool]]:
        """Return (consumes, produces) of each firing of one sample, in order."""
        a, b = self.source, self.target
        give, full = a.lanes // self.unit, b.lanes // self.unit
        out, held, taken = [], 0, 0
        for beat in range(b.beats):
            end = beat % b.row_beats == b.row_beats - 1
            needed = self.tail(b) if end else full
            while True:
                consume = held < needed
                if consume:
                    held += self.tail(a) if taken % a.row_beats == a.row_beats - 1 else give
                    taken += 1
                out.append((consume, held >= needed))
                if held >= needed:
                    break
            held = 0 if end and self.aligned else held - needed
        assert taken == a.beats, "every input beat is consumed"
        return out

    def schedule(self) -> Schedule:
        firings = self.firings()
        rows = math.gcd(self.source.rows, self.target.rows)
        period = firings[: len(firings) // rows]
        body = tuple(stream(take=take, produce=produce) for take, produce in period)
        return Schedule((Actor("", (Loop(rows, _runs(body)),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        a, b = self.source, self.target
        return {
            "InLanes": a.lanes,
            "OutLanes": b.lanes,
            "Width": a.grid.width,
            "ExpBits": a.grid.exp_bits,
            "Block": max(1, a.grid.block),
            "Unit": self.unit,
            "InBeats": a.row_beats,
            "InTail": self.tail(a),
            "OutBeats": b.row_beats,
            "OutTail": self.tail(b),
            "Rows": b.rows,
            "DropTail": int(self.aligned),
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        return self.foldings.part(self.source.lanes, self.target.lanes, self.fifo)


def _blocks(side: StreamType) -> int:
    return -(-side.cols // side.grid.block)


def _runs(steps: tuple[Step, ...]) -> tuple[Loop, ...]:
    """Group equal neighbours into loops."""
    out: list[Loop] = []
    for step in steps:
        if out and out[-1].body == (step,):
            out[-1] = Loop(out[-1].count + 1, (step,))
        else:
            out.append(Loop(1, (step,)))
    return tuple(out)
