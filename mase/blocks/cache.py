"""Rows that are kept and read again, all so far after each new one: keys and values (hw/cache)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.blocks.concat import beat_bits
from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Work, clog2
from mase.formats import Code


@dataclass(frozen=True, eq=False)
class Cache(Pipe):
    """After row i of a sample has come, give rows max(0, i - keep + 1) to i, the oldest first.

    Args:
        keep: rows that are held; as many as a sample has keep all of them.
    """

    source: StreamType
    keep: int
    sv_module: ClassVar[str] = "mase_cache"

    def __post_init__(self) -> None:
        assert 1 <= self.keep <= self.source.rows

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        return StreamType(len(self.places), self.source.cols, self.source.lanes, self.source.grid)

    @property
    def places(self) -> Tensor:
        """Return the row of a sample that each row of the result is."""
        counts = range(1, self.source.rows + 1)
        return torch.cat([torch.arange(max(0, count - self.keep), count) for count in counts])

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        code, places = inputs[0], self.places
        return (Code(code.mantissa[:, places], None if code.exponent is None else code.exponent[:, places]),)

    def schedule(self) -> Schedule:
        beats, body = self.source.row_beats, list[Loop]()
        take, give = Step((IN,), (IN,)), Step((), (), (OUT,), (OUT,))
        for held in range(1, self.keep):
            body += [Loop(beats, (take,)), Loop(held * beats, (give,))]
        rest = self.source.rows - self.keep + 1  # rows after which the ring is full
        body.append(Loop(rest, (Loop(beats, (take,)), Loop(self.keep * beats, (give,)))))
        return Schedule((Actor("", tuple(body), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Width": self.source.bits,
            "Rows": self.source.rows,
            "Keep": self.keep,
            "Beats": self.source.row_beats,
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        beats, bits = self.source.row_beats, beat_bits(self.source.grid, self.source.lanes)
        words = self.keep * beats
        ring = Work(
            registers=5 + int(clog2(words)),
            muxes=((int(clog2(words)), 2),),
            gates=((1, 2 * int(clog2(words))),),
            counters=(words, words, beats, self.source.rows),
            buffers=((bits, words),),
        )
        return Part(ring, latency=1) >> credit_fifo(bits + 1, self.fifo)
