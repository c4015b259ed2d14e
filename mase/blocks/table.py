"""Look every element up in a table: y = T[x] (hw/table)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from mase.dataflow.block import MemoryImage, Pipe, pack_words
from mase.dataflow.contents import Contents
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.grid import Grid


def index_bits(x: Grid) -> int:
    """Return the bits that name a word: those of a code, and of the exponent of its block."""
    return x.width + x.exp_bits


def index(x: Grid, code: Code, axis: int = -1) -> Tensor:
    """Return the word of each element: its code, with the exponent above its base over it; blocks along ``axis``."""
    found = code.mantissa & ((1 << x.width) - 1)
    if not x.block:
        return found
    assert code.exponent is not None
    fields = (code.exponent - x.base << x.width).repeat_interleave(x.block, axis)
    return found | fields.narrow(axis, 0, found.shape[axis])


def table_path(rows: int, cols: int, lanes: Count, bits: int, x: int, contents: Contents) -> Part:
    """Return all before the output FIFO at any number of lanes, for words of ``bits`` and an index of ``x`` bits."""
    beats, cut = ceil_div(cols, lanes), np.not_equal(cols % lanes, 0)
    rowed = cut & np.greater(beats, 1)
    looked_up = Part(Work(muxes=((lanes * bits * cut, 2),), known=((lanes, bits, 1 << x, contents),)), latency=1)
    counted = control(rowed, (rows * beats, np.where(rowed, beats, 1)))
    return counted & looked_up.along(1)


@dataclass(frozen=True, eq=False)
class Table(Pipe):
    """Look elements up, ``lanes`` a cycle, each lane in a memory of its own.

    Args:
        source, target: streams of one shape, the target without blocks. words: int64 ``[2**index_bits]``, codes of the
            target, in order of the index.
    """

    source: StreamType
    target: StreamType
    words: Tensor
    sv_module: ClassVar[str] = "mase_table"

    def __post_init__(self) -> None:
        check_lanes("table", self.source.grid, self.source.lanes)

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        return self.target

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (Code(self.words[index(self.source.grid, inputs[0])]),)

    def schedule(self) -> Schedule:
        body = (Loop(self.source.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        x = self.source.grid
        return {
            "Beats": self.source.beats,
            "Lanes": self.source.lanes,
            "Cols": self.source.cols,
            "XWidth": x.width,
            "XExpBits": x.exp_bits,
            "XBlock": max(1, x.block),
            "OutWidth": self.target.grid.width,
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        width = self.target.grid.width
        words = pack_words(self.words.reshape(-1, 1).numpy(), width)
        layout = "word x: result of the code x, as a number without a sign"
        if self.source.grid.block:
            layout += "; the exponent above its base stands over the code"
        return {"TableFile": MemoryImage(width, words, layout)}

    def part(self) -> Part:
        x, bits = index_bits(self.source.grid), self.target.grid.width
        contents = Contents.of(self.words.numpy(), bits)
        path = table_path(self.source.rows, self.source.cols, self.source.lanes, bits, x, contents)
        return path >> credit_fifo(self.source.lanes * bits + 1, self.fifo)
