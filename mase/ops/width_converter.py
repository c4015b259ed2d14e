"""Re-chunk a stream: other lanes, or other rows over the same elements (hw/common/mase_stream_converter)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.ops.base import Block
from mase.ops.work import Work, clog2
from mase.schedule import Actor, Loop, Schedule, Step, stream
from mase.stream import StreamType

LATENCY = 2


@dataclass(frozen=True, eq=False)
class WidthConverter(Block):
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
        unit = math.gcd(self.source.lanes, self.target.lanes)
        return unit if self.aligned else math.gcd(unit, self.source.cols, self.target.cols)

    @property
    def aligned(self) -> bool:
        """Tell whether rows start together."""
        return self.source.cols == self.target.cols

    def tail(self, side: StreamType) -> int:
        """Return the units that count in the last beat of a row."""
        if self.aligned and side is self.source:
            return side.lanes // self.unit
        return -(-(side.cols - (side.row_beats - 1) * side.lanes) // self.unit)

    def compute(self, x: Code) -> Code:
        blocks = None if x.exponent is None else x.exponent.reshape(-1, self.target.rows, _blocks(self.target))
        return Code(x.mantissa.reshape(-1, self.target.rows, self.target.cols), blocks)

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
        return Schedule((Actor("", (Loop(rows, _runs(body)),), {"out": LATENCY}),))

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

    def work(self) -> Work:
        give, full = self.source.lanes // self.unit, self.target.lanes // self.unit
        width = (
            self.unit * self.source.grid.width
            + self.source.grid.exponents_per_beat(self.unit) * self.source.grid.exp_bits
        )
        capacity, kept = give + full - 1, max(give, full, 2) - 1
        return Work(
            registers=clog2(capacity + 1) + (kept + full) * width + 2,
            muxes=((capacity * width, min(give, full) + 1), (max(0, give - 1) * width, 3)),
            fifos=((self.target.bits + 1, self.fifo),),
            counters=(self.source.row_beats, self.target.row_beats, self.target.rows),
        )


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
