"""The greatest elements of each row or their indices, the greatest first, lowest index first among equals (hw/topk)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mase.dataflow.block import Pipe
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Foldings, Lanes, Work, comparison
from mase.formats import Code
from mase.formats.grid import Grid

LATENCY = 1
STATE = 1  # flip-flops: whether a row enters or leaves


@dataclass(frozen=True)
class TopkFoldings(Foldings):
    """The unit, which has one lane on each side.

    Args:
        rows, cols: shape. k: results of a row. value, held: bits that are compared, and that leave.
        shift: greatest one of an exponent.
    """

    rows: int
    cols: int
    k: int
    value: int
    held: int
    shift: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        one = np.ones(1, np.int64)
        return one, one

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.rows * (self.cols + self.k) * np.ones_like(simd)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": LATENCY + 1}

    @property
    def path(self) -> Part:
        """Return all before the output FIFO: the results leave the list as they are."""
        return Part(
            Work(
                adders=((self.k, comparison(self.value)),),
                muxes=((self.k * self.value, 2), (self.k * self.held, 3)),
                shifters=((1, self.value, self.shift),) * (self.shift > 0),
                registers=STATE + self.k * (self.value + self.held + 1),
                counters=(self.cols, self.rows),
            )
        )

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": (self.path >> credit_fifo(self.held + 1, fifos[""])).work}


@dataclass(frozen=True, eq=False)
class Topk(Pipe):
    """One element a cycle; then the ``k`` results of the row.

    Args:
        rows, cols: of a sample. k: at most ``cols``. x: grid of the input. indices: they leave, else the elements.
    """

    rows: int
    cols: int
    k: int
    x: Grid
    indices: bool
    sv_module: ClassVar[str] = "mase_topk"

    def __post_init__(self) -> None:
        assert 0 < self.k <= self.cols
        assert self.indices or not self.x.block, "elements that leave have no exponents"

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.cols, 1, self.x)

    @property
    def stream_out(self) -> StreamType:
        bits = index_bits(self.cols)
        return StreamType(self.rows, self.k, 1, Grid(bits, False, 0, (1 << bits) - 1) if self.indices else self.x)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        places = greatest(self.x.plain.compared(inputs[0]), self.k)
        return (Code(places if self.indices else inputs[0].mantissa.gather(-1, places)),)

    def schedule(self) -> Schedule:
        take, give = Step((IN,), (IN,)), Step((), (), (OUT,), (OUT,))
        row = (Loop(self.cols, (take,)), Loop(self.k, (give,)))
        return Schedule((Actor("", (Loop(self.rows, row),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Rows": self.rows,
            "Cols": self.cols,
            "K": self.k,
            "Indices": int(self.indices),
            "XWidth": self.x.width,
            "XSigned": int(self.x.signed),
            "XExpBits": self.x.exp_bits,
            "OutWidth": self.stream_out.grid.width,
            "FifoDepth": self.fifo,
        }

    @property
    def foldings(self) -> TopkFoldings:
        """Everything that cycles and hardware depend on."""
        shift = (1 << self.x.exp_bits) - 1 if self.x.block else 0
        value, held = self.x.element_bits + shift, self.stream_out.grid.width
        return TopkFoldings(self.rows, self.cols, self.k, value, held, shift)

    def part(self) -> Part:
        return self.foldings.path >> credit_fifo(self.stream_out.grid.width + 1, self.fifo)


def index_bits(cols: int) -> int:
    """Return the bits of an index below ``cols``."""
    return max(1, (cols - 1).bit_length())


def greatest(values: Tensor, k: int, axis: int = -1) -> Tensor:
    """Return the indices of the greatest elements along an axis, the greatest first, the lowest first among equals."""
    return torch.sort(values, dim=axis, descending=True, stable=True).indices.narrow(axis, 0, k)
