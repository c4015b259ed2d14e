"""Scale and shift every element by constants of its place, with one rounding: y = round(m x + b) (hw/affine)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.blocks.output import Output
from mase.blocks.unit import Behind, UnitFoldings, output
from mase.dataflow.block import Block, MemoryImage, Pipe, pack_words
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, last_call, product, rom, shift
from mase.dataflow.rounding import MULT_BITS, carrier
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Lanes, Work, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid, signed_width
from mase.formats.whole import whole

FINE = 1 << 8  # multipliers below this keep fewer than 8 significant bits


@dataclass(frozen=True, eq=False)
class Scaling:
    """Say what is multiplied and added, in integers.

    Args:
        rows, cols: of a sample. x: grid of the input. multiplier, addend: int64 ``[rows or 1, cols]``; one row serves
            all. out: the rounding of the sums. sum_width: bits of a sum.
    """

    rows: int
    cols: int
    x: Grid
    multiplier: Tensor
    addend: Tensor
    out: Output
    sum_width: int

    @classmethod
    def of(
        cls,
        x: Grid,
        y: Grid,
        scales: tuple[Tensor | None, Tensor | None],
        scale: Tensor,
        shift: Tensor,
        relu: bool,
        mode: str,
        where: str,
    ) -> Self:
        """Build from real constants, float64 ``[rows, cols]`` as elements travel.

        Multipliers have 16 bits and a sign, and one power of two serves all of them.

        Args:
            scales: real scales of input and result, None for 1.

        Raises:
            UnsupportedOp: a constant is not a number, or the sum is too wide.
        """
        source, target = (torch.ones(()).double() if s is None else s.double() for s in scales)
        ratio, step = scale * source / target, shift / target
        for what, data in (("scale", ratio), ("shift", step)):
            if not bool(torch.isfinite(data).all()):
                raise UnsupportedOp(f"{where}: the {what} of a channel is infinite or NaN; allowed are finite numbers")
        top = float(ratio.abs().amax())
        k = 0 if top == 0 else MULT_BITS - int(np.frexp(top)[1])
        if abs(k) > 500 or float(step.abs().amax()) * 2.0 ** (k - x.unit) > 2.0**62:
            raise UnsupportedOp(f"{where}: shifts are over 2**62 steps of the scales; allowed are nearer ones")
        multiplier = whole((ratio * 2.0**k).round())
        addend = whole((step * 2.0 ** (k - x.unit)).round())
        rows = slice(0, 1) if rows_alike(multiplier) and rows_alike(addend) else slice(None)
        multiplier, addend = multiplier[rows].contiguous(), addend[rows].contiguous()
        low, high = _bounds(x, multiplier, addend)
        out = Output.of(y, None, None, x.unit - k, max(-low, high), relu, mode, where)
        coarse = int(((multiplier.abs() < FINE) & (multiplier != 0)).any(0).sum())
        note = f"{where}: {coarse} channel multipliers are below 2**8, so coarser than 0.2 %"
        out = replace(out, warnings=(note,) * (coarse > 0))
        places, cols = scale.shape
        return cls(places, cols, x, multiplier, addend, out, signed_width(low, high))

    def integers(self, code: Code) -> Tensor:
        """Return the sums of codes ``[samples, rows, cols]``: exact integers on one unit, float64 or int64."""
        dtype = carrier(2 * self.out.total, self.x.reach, int(self.multiplier.abs().max()))
        dtype = torch.float64 if dtype == torch.float32 else dtype
        return self.x.integers(code, dtype) * self.multiplier.to(dtype) + self.addend.to(dtype)

    def scalar(self, row: int, codes: list[int], exponents: list[int] | None) -> tuple[list[int], list[int] | None]:
        """Do the same for one row of Python integers, and round them: the oracle."""
        place = row % self.multiplier.shape[0]
        constants = zip(self.multiplier[place].tolist(), self.addend[place].tolist(), strict=True)
        if exponents is not None:
            codes = [x << exponents[i // self.x.block] - self.x.base for i, x in enumerate(codes)]
        return self.out.scalar([m * x + b for x, (m, b) in zip(codes, constants, strict=True)])

    @property
    def mult_width(self) -> int:
        """Bits of a multiplier."""
        return signed_width(int(self.multiplier.min()), int(self.multiplier.max()))

    @property
    def add_width(self) -> int:
        """Bits of an addend."""
        return signed_width(int(self.addend.min()), int(self.addend.max()))

    @cached_property
    def foldings(self) -> AffineFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        return AffineFoldings(*self._sizes())

    def _sizes(self) -> tuple[Any, ...]:  # the fields of the foldings
        x, out, normaliser = self.x, self.out, None
        if out.raw:
            normaliser = out.normaliser(self.rows, self.cols, 1, self.sum_width, 2).normaliser
        return (
            self.rows,
            self.cols,
            self.multiplier.shape[0],
            x.element_bits,
            x.block,
            x.exp_bits,
            self.mult_width,
            self.add_width,
            self.sum_width,
            out.grid.width,
            out.grid.block,
            out.zero_bits,
            normaliser,
        )

    def blocks(self, lanes: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the unit, and the normaliser behind it where the result has blocks."""
        core = AffineUnit(self, lanes, fifo=fifos.get("", 2))
        if not self.out.raw:
            return {"": core}
        fifo = fifos.get("normalise", 2)
        return {"": core, "normalise": self.out.normaliser(self.rows, self.cols, lanes, self.sum_width, fifo)}


def rows_alike(t: Tensor) -> bool:
    """Tell whether all rows of a matrix are equal."""
    return bool((t == t[:1]).all())


def _bounds(x: Grid, multiplier: Tensor, addend: Tensor) -> tuple[int, int]:
    """Return the least and the greatest sum, in Python integers of any size."""
    ends = (x.low << x.span, x.high << x.span)
    pairs = {*zip(multiplier.flatten().tolist(), addend.flatten().tolist(), strict=True)}
    sums = [m * end + b for m, b in pairs for end in (*ends, 0)]
    return min(sums), max(sums)


@dataclass(frozen=True)
class AffineFoldings(UnitFoldings):
    """The unit before it is folded.

    Args:
        rows, cols: shape. constants: rows of constants. x_bits, x_block, x_exp_bits: of the input, as in
            LinearFoldings. mult_width, add_width, sum_width: bits. out_width, out_block: of the result.
        zero_bits: of a result that are always 0. normaliser: what follows where the result has blocks.
    """

    rows: int
    cols: int
    constants: int
    x_bits: int
    x_block: int
    x_exp_bits: int
    mult_width: int
    add_width: int
    sum_width: int
    out_width: int
    out_block: int
    zero_bits: int
    normaliser: Behind | None

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.x_block, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * ceil_div(self.cols, pe), pe)

    def beat_bits(self, pe: Count) -> Count:
        return pe * ((self.out_width if self.normaliser is None else self.sum_width) - self.zero_bits)

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        most = (1 << self.x_exp_bits) - 1 if self.x_block else 0
        beats, wide = ceil_div(self.cols, pe), self.x_bits + most
        words = self.constants * beats
        constants = rom(pe * self.mult_width, words) & rom(pe * self.add_width, words)
        factor = product(wide, self.mult_width, 0, words)
        shifted: Part = pe * shift(wide, most)
        summed: Part = pe * (factor & Part(Work(adders=((1, self.sum_width),), registers=self.sum_width), latency=1))
        rounded = output(pe, self.sum_width, self.out_width, self.beat_bits(pe), not self.normaliser)
        path = (shifted & constants) >> summed >> rounded
        return control(counters=(self.rows * beats, words)) & path.along(np.greater(self.rows * beats, 1))


@dataclass(frozen=True, eq=False)
class AffineUnit(Pipe):
    """The unit on ``lanes`` elements a cycle."""

    scaling: Scaling
    lanes: int
    sv_module: ClassVar[str] = "mase_affine"

    def __post_init__(self) -> None:
        for grid in (self.scaling.x, self.scaling.out.grid):
            check_lanes("affine", grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.scaling.rows, self.scaling.cols, self.lanes, self.scaling.x)

    @property
    def stream_out(self) -> StreamType:
        grid = self.scaling.out.raw_grid(self.scaling.sum_width)
        return StreamType(self.scaling.rows, self.scaling.cols, self.lanes, grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.scaling.out.given(self.scaling.integers(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self.scaling.integers(*inputs), self.scaling.out.describe

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        op, out = self.scaling, dict(self.scaling.out.sv_params(self.scaling.sum_width))
        assert out.pop("MultBits") == 0
        return {
            "Beats": self.stream_in.beats,
            "Words": op.multiplier.shape[0] * self.stream_in.row_beats,
            "Lanes": self.lanes,
            "XWidth": op.x.width,
            "XSigned": int(op.x.signed),
            "XExpBits": op.x.exp_bits,
            "XBlock": max(1, op.x.block),
            "MultWidth": op.mult_width,
            "AddWidth": op.add_width,
            "SumWidth": op.sum_width,
            **out,
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        layout = "word i, lane l: constant of element i * lanes + l of a row; 0 beyond its end"
        if self.scaling.multiplier.shape[0] > 1:
            layout += "; row after row of a sample"
        return {
            "MultFile": self._image(self.scaling.multiplier, self.scaling.mult_width, layout),
            "AddFile": self._image(self.scaling.addend, self.scaling.add_width, layout),
        }

    def _image(self, constants: Tensor, width: int, layout: str) -> MemoryImage:
        padded = pad(constants, (0, self.stream_in.row_beats * self.lanes - self.scaling.cols))
        return MemoryImage(self.lanes * width, pack_words(padded.reshape(-1, self.lanes).numpy(), width), layout)

    def part(self) -> Part:
        return self.scaling.foldings.core(self.lanes, self.lanes, self.fifo)
