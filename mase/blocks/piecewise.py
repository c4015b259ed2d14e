"""A function of one element by a polynomial a segment, in integers (hw/piecewise)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.unit import Behind, UnitFoldings, output
from mase.dataflow.block import Block, MemoryImage, Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, last_call, product, when
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Lanes, Work, ceil_div, tile_lanes
from mase.formats import Code
from mase.formats.grid import Grid, signed_width


@dataclass(frozen=True, eq=False)
class Polynomials:
    """Say what is computed: t = a + (h z >> shift_b), h = b + (c z >> shift_c); >> is floor.

    Args:
        width, signed: of a code. bits: its top ones name the segment; z is what the others are above their middle.
        coefficients: int64 ``[degree + 1, segments]``: a, b and, of degree 2, c.
    """

    width: int
    signed: bool
    bits: int
    coefficients: Tensor
    shift_b: int
    shift_c: int

    @property
    def degree(self) -> int:
        """Degree of the polynomials: 1 or 2."""
        return self.coefficients.shape[0] - 1

    @property
    def rest(self) -> int:
        """Bits of z."""
        return self.width - self.bits

    def split(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the segment of each code, and z."""
        above = codes + (1 << self.width - 1) if self.signed else codes
        return above >> self.rest, (above & (1 << self.rest) - 1) - (1 << self.rest - 1)

    def inner(self, segment: Tensor, z: Tensor) -> Tensor:
        """Return h."""
        b = self.coefficients[1][segment]
        return b if self.degree == 1 else b + (self.coefficients[2][segment] * z >> self.shift_c)

    def integers(self, codes: Tensor) -> Tensor:
        """Return t of codes: exact, int64."""
        segment, z = self.split(codes)
        return self.coefficients[0][segment] + (self.inner(segment, z) * z >> self.shift_b)

    def scalar(self, code: int) -> int:
        """Do the same for one Python integer, from the definition."""
        above = code + 2 ** (self.width - 1) if self.signed else code
        segment, rest = divmod(above, 2**self.rest)
        z = rest - 2 ** (self.rest - 1)
        a, b, c = (*(int(row[segment]) for row in self.coefficients), 0)[:3]
        h: int = b + c * z // 2**self.shift_c
        t: int = a + h * z // 2**self.shift_b
        return t

    @cached_property
    def every_code(self) -> Tensor:
        """All codes that a word of this width can hold."""
        least = -(1 << self.width - 1) if self.signed else 0
        return torch.arange(least, least + (1 << self.width))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Bits of a, b and c; 0 for a c that there is not."""
        found = [signed_width(int(row.min()), int(row.max())) for row in self.coefficients]
        return (*found, *[0] * (3 - len(found)))

    @cached_property
    def h_width(self) -> int:
        """Bits of the widest h."""
        h = self.inner(*self.split(self.every_code))
        return signed_width(int(h.min()), int(h.max()))

    @cached_property
    def sum_width(self) -> int:
        """Bits of the widest t."""
        t = self.integers(self.every_code)
        return signed_width(int(t.min()), int(t.max()))


@dataclass(frozen=True)
class PiecewiseFoldings(UnitFoldings):
    """The unit before it is folded.

    Args:
        rows, cols: shape. bits, rest: of a code that name the segment, and the others. widths: of a, b, c (0: none).
        h_width, sum_width: bits. out_width, out_block, zero_bits: of the result. normaliser: what follows where the
            result has blocks.
    """

    rows: int
    cols: int
    bits: int
    rest: int
    widths: tuple[int, ...]
    h_width: int
    sum_width: int
    out_width: int
    out_block: int
    zero_bits: int
    normaliser: Behind | None

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * ceil_div(self.cols, pe), pe)

    def beat_bits(self, pe: Count) -> Count:
        return pe * ((self.out_width if self.normaliser is None else self.sum_width) - self.zero_bits)

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        a, b, c = self.widths
        beats, words = ceil_div(self.cols, pe), 1 << self.bits
        table = Part(Work(tables=((1, a + b + c, words),), registers=self.rest), latency=1)
        square = Part(Work(adders=((1, self.h_width),)))
        square = square & product(c, self.rest, self.h_width + a + self.rest, words)
        line = product(self.h_width, self.rest, 0, words)
        summed = line & Part(Work(adders=((1, self.sum_width),), registers=self.sum_width), latency=1)
        rounded = output(pe, self.sum_width, self.out_width, self.beat_bits(pe), not self.normaliser)
        t: Part = pe * (table >> when(c > 0, square) >> summed)
        path = t.along(2) >> rounded.along()  # beside t: last, and the end of a row
        return control(counters=(self.rows * beats, beats)) & path


@dataclass(frozen=True, eq=False)
class PiecewiseUnit(Pipe):
    """The unit on ``lanes`` elements a cycle.

    Args:
        rows, cols: of a sample. x: grid of the codes. polynomials: of the segments. out: the rounding of t.
    """

    rows: int
    cols: int
    lanes: int
    x: Grid
    polynomials: Polynomials
    out: Output
    sv_module: ClassVar[str] = "mase_piecewise"

    def __post_init__(self) -> None:
        check_lanes("piecewise", self.out.grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.x)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.rows, self.cols, self.lanes, self.out.raw_grid(self.polynomials.sum_width))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.out.given(self.polynomials.integers(inputs[0].mantissa)),)

    def blocks(self, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the unit, and the normaliser behind it where the result has blocks."""
        if not self.out.raw:
            return {"": self}
        raw, fifo = self.polynomials.sum_width, fifos.get("normalise", 2)
        return {"": self, "normalise": self.out.normaliser(self.rows, self.cols, self.lanes, raw, fifo)}

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        p, out = self.polynomials, dict(self.out.sv_params(self.polynomials.sum_width))
        assert out.pop("MultBits") == 0
        a, b, c = p.widths
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "Cols": self.cols,
            "XWidth": p.width,
            "XSigned": int(p.signed),
            "SegBits": p.bits,
            "Degree": p.degree,
            "AWidth": a,
            "BWidth": b,
            "CWidth": c,
            "ShiftB": p.shift_b,
            "ShiftC": p.shift_c,
            "HWidth": p.h_width,
            "SumWidth": p.sum_width,
            **out,
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        widths, words = self.polynomials.widths, []
        for row in self.polynomials.coefficients.T.tolist():
            word, place = 0, 0
            for value, width in zip(row, widths, strict=False):
                word |= (value & (1 << width) - 1) << place
                place += width
            words.append(word)
        layout = "word i: coefficients a, b and c of segment i, a lowest; segments by code, the least first"
        return {"TableFile": MemoryImage(sum(widths), words, layout)}

    @cached_property
    def foldings(self) -> PiecewiseFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        p, out, normaliser = self.polynomials, self.out, None
        if out.raw:
            normaliser = out.normaliser(self.rows, self.cols, 1, p.sum_width, 2).normaliser
        sizes = p.bits, p.rest, p.widths, p.h_width, p.sum_width
        return PiecewiseFoldings(
            self.rows, self.cols, *sizes, out.grid.width, out.grid.block, out.zero_bits, normaliser
        )

    def part(self) -> Part:
        return self.foldings.core(self.lanes, self.lanes, self.fifo)
