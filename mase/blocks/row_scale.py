"""Normalise rows in exact integers with one rounding: y = round(d g r + b), r a factor of the row (hw/row_scale)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.blocks.output import Output
from mase.blocks.root import HALF, MOST_BITS, Roots, root_grid
from mase.blocks.row_stats import Stats
from mase.dataflow.block import Block, MemoryImage, pack_words
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.rounding import INT_BITS
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, constant_product
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid, signed_width
from mase.formats.whole import whole

X, R = "x", "r"
GAMMA_BITS = 12  # of a constant, and a sign
FINEST, COARSEST = 12, 6  # significant bits of a factor
RAW_BITS = 52  # of what a normaliser takes


@dataclass(frozen=True, eq=False)
class RowNorm:
    """Say what is computed of each row of q, in integers.

    a and s are its :class:`Stats`, r the root of ``roots``, d = cols q - s (centred) or q; then
    y = round(d g r + b), where d r / sqrt(roots.top) is the row, normalised.

    Args:
        rows, cols: of a sample. multiplier, addend: g and b, int64 ``[cols]``. out: the rounding. sum_width: bits.
        precision: significant bits of every factor, less those of rows whose a is nearly eps.
    """

    rows: int
    stats: Stats
    roots: Roots
    multiplier: Tensor
    addend: Tensor
    out: Output
    sum_width: int
    precision: int

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        x: Grid,
        y: Grid,
        scales: tuple[float, float],
        constants: tuple[Tensor, Tensor],
        eps: float,
        centred: bool,
        relu: bool,
        mode: str,
        where: str,
    ) -> Self:
        """Build from real constants.

        Args:
            shape: rows and columns of a sample. scales: real scales of input and result, 1 for none.
            constants: what multiplies and what is added, float64 ``[cols]``.

        Raises:
            UnsupportedOp: a constant is not a number, or the integers are too wide.
        """
        cols, unit = shape[1], Fraction(scales[0]) * Fraction(2) ** x.unit
        stats = Stats(cols, x, centred, max(1, round(Fraction(eps) * cols ** (1 + centred) / unit**2)))
        width = max(stats.most.bit_length() + 1, stats.sum_bits)
        if width > INT_BITS:
            raise UnsupportedOp(f"{where}: sums of a row take {width} bits; allowed are {INT_BITS}: {_narrower(x)}")
        for what, data in (("weight", constants[0]), ("bias", constants[1])):
            if not bool(torch.isfinite(data).all()):
                raise UnsupportedOp(f"{where}: the {what} is infinite or NaN; allowed are finite numbers")
        needed = 0
        for precision in range(FINEST, COARSEST - 1, -1):
            found, needed = cls._at(precision, shape[0], stats, y, scales[1], constants, relu, mode, where)
            if found is not None:
                return found
        raise UnsupportedOp(
            f"{where}: the exact integers before rounding take {needed} bits; allowed are "
            f"{RAW_BITS if y.raw else INT_BITS}: {_narrower(x)}"
        )

    @classmethod
    def _at(
        cls,
        precision: int,
        rows: int,
        stats: Stats,
        y: Grid,
        scale: float,
        constants: tuple[Tensor, Tensor],
        relu: bool,
        mode: str,
        where: str,
    ) -> tuple[Self | None, int]:
        """Return the integers whose factors have so many bits, or None and the bits that are too many."""
        square = Fraction(1 if stats.centred else stats.cols) / Fraction(scale) ** 2  # of the factor, less 2**(2 * m)
        ratio = Fraction(stats.most) * 4**precision / square  # 4**m is at least this
        m = -(-(ratio.numerator.bit_length() - ratio.denominator.bit_length() + 1) // 2)
        top = math.floor(square * Fraction(4) ** m)
        if top >= 1 << 2 * HALF:
            return None, top.bit_length() + 1
        least = stats.eps + (max(1, stats.cols - 1) if stats.centred else 1)  # of a row whose d are not all 0
        roots = Roots(2, isqrt(top // least).bit_length(), top, stats.most) if top >= least else None
        if roots is None or roots.bits > MOST_BITS:
            return None, 2 * MOST_BITS + 1
        gamma, beta = constants
        k = 0 if not bool(gamma.any()) else GAMMA_BITS - math.frexp(float(gamma.abs().max()))[1]
        unit = -(m + k)
        high = float(beta.abs().max()) / scale
        if abs(unit) > 500 or high * 2.0**-unit > 2.0**61:
            return None, 62
        multiplier, addend = whole((gamma * 2.0**k).round()), whole((beta / scale * 2.0**-unit).round())
        factor = isqrt(top * max(1, stats.cols - 1) if stats.centred else top) + 1  # of |d r|
        total = factor * int(multiplier.abs().max()) + int(addend.abs().max())
        bits = total.bit_length() + 1
        if bits > INT_BITS or (y.raw and bits > RAW_BITS):
            return None, bits
        out = Output.of(y, None, None, unit, total, relu, mode, where)
        product = _diff_bits(stats) + _bits(multiplier)
        return cls(rows, stats, roots, multiplier, addend, out, max(bits, product + 1), precision), bits

    @property
    def cols(self) -> int:
        """Elements of a row."""
        return self.stats.cols

    @property
    def diff_bits(self) -> int:
        """Bits of d."""
        return _diff_bits(self.stats)

    @property
    def mult_bits(self) -> int:
        """Bits of a multiplier."""
        return _bits(self.multiplier)

    @property
    def add_bits(self) -> int:
        """Bits of an addend."""
        return _bits(self.addend)

    @property
    def sizes(self) -> NormSizes:
        """All that cycles and hardware depend on but the lanes."""
        out = self.out
        return NormSizes(
            self.rows,
            self.stats,
            self.roots,
            self.mult_bits,
            self.add_bits if bool(self.addend.any()) else 0,
            self.sum_width,
            out.raw,
            out.grid.width,
            out.grid.block,
            out.zero_bits,
        )

    def integers(self, code: Code) -> Tensor:
        """Return the sums of codes ``[samples, rows, cols]``: exact, int64."""
        q = self.stats.x.integers(code, torch.int64)
        a, s = self.stats.apply(q)
        return self.summed(q, self.roots.apply(a), s)

    def summed(self, q: Tensor, r: Tensor, s: Tensor) -> Tensor:
        """Return d g r + b."""
        d = self.cols * q - s if self.stats.centred else q
        return d * self.multiplier * r + self.addend

    def scalar(self, row: list[int]) -> tuple[list[int], list[int] | None]:
        """Do all of it for one row of Python integers: the oracle."""
        a, s = self.stats.scalar(row)
        r = self.roots.scalar(a)
        constants = zip(self.multiplier.tolist(), self.addend.tolist(), strict=True)
        wide = self.cols if self.stats.centred else 1
        return self.out.scalar([(wide * q - s) * g * r + b for q, (g, b) in zip(row, constants, strict=True)])


@dataclass(frozen=True)
class NormSizes:
    """Say how large a norm of rows is: its statistics and roots, and bits of its constants, sums and results.

    Args:
        add_bits: 0 where nothing is added. raw: exact integers leave. out_width, out_block: of the result.
        zero_bits: of a result that are always 0.
    """

    rows: int
    stats: Stats
    roots: Roots
    mult_bits: int
    add_bits: int
    sum_width: int
    raw: bool
    out_width: int
    out_block: int
    zero_bits: int

    @property
    def cols(self) -> int:
        """Elements of a row."""
        return self.stats.cols

    @property
    def diff_bits(self) -> int:
        """Bits of cols q - s, or q."""
        return _diff_bits(self.stats)

    @property
    def latency(self) -> int:
        """Cycles from a firing of the scale unit to its output beat."""
        return 5 + (not self.raw)

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what the scale unit is made of at any number of lanes."""
        x, beats = self.stats.x, ceil_div(self.cols, lanes)
        wide = _wide(x)
        product, centred = self.diff_bits + self.mult_bits, int(self.stats.centred)
        result = (self.sum_width if self.raw else self.out_width) - self.zero_bits
        sums = Work(
            multipliers=(
                (lanes, self.diff_bits, self.mult_bits),
                (lanes, product, self.roots.bits + 1),
                *(constant_product(lanes, wide, self.cols) * centred),
            ),
            adders=((lanes * centred, self.diff_bits), *((lanes, self.sum_width),) * (self.add_bits > 0)),
            shifters=((lanes, wide, (1 << x.exp_bits) - 1),) * (x.block > 0),
            registers=lanes * (wide + self.diff_bits + self.mult_bits + 2 * self.add_bits + product + self.sum_width)
            + 3 * self.roots.bits
            + self.diff_bits * centred
            + lanes * result * (not self.raw)
            + 8,
            roms=((lanes * self.mult_bits, beats), (lanes * self.add_bits, beats)),
            rounders=() if self.raw else ((lanes, self.sum_width, self.out_width),),
            counters=(beats, self.rows),
        )
        return Part(sums, latency=self.latency - 1) >> credit_fifo(lanes * result + 1, fifo)


def _bits(constants: Tensor) -> int:
    return signed_width(int(constants.min()), int(constants.max()))


def _diff_bits(stats: Stats) -> int:
    most = 2 * (stats.cols - 1) * stats.x.reach if stats.centred else stats.x.reach
    return max(signed_width(-most, most), _wide(stats.x))


def _narrower(x: Grid) -> str:
    """Return what to do about integers of too many bits."""
    if x.block:
        return "use an input without blocks, such as int8 or fixed8.4, or one of a smaller exponent window"
    return "use an input of fewer bits, or shorter rows"


def _wide(x: Grid) -> int:
    """Return the bits of an element on a stream, shifted by its exponent."""
    return x.element_bits + ((1 << x.exp_bits) - 1 if x.block else 0)


@dataclass(frozen=True, eq=False)
class RowScale(Block):
    """The unit on ``lanes`` elements a cycle; input ``x`` has the elements, ``r`` the factor and sum of each row."""

    norm: RowNorm
    lanes: int
    sv_module: ClassVar[str] = "mase_row_scale"

    def __post_init__(self) -> None:
        for grid in (self.norm.stats.x, self.norm.out.grid):
            check_lanes("row_scale", grid, self.lanes)

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        stats = self.norm.stats
        factors = root_grid(self.norm.roots.bits, stats.sum_bits)
        return {
            X: StreamType(self.norm.rows, stats.cols, self.lanes, stats.x),
            R: StreamType(self.norm.rows, stats.lanes, stats.lanes, factors),
        }

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        grid = self.norm.out.raw_grid(self.norm.sum_width)
        return {OUT: StreamType(self.norm.rows, self.norm.cols, self.lanes, grid)}

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.norm.out.given(self._integers(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self._integers(*inputs), self.norm.out.describe

    def _integers(self, x: Code, r: Code) -> Tensor:
        factors = whole(r.mantissa)
        return self.norm.summed(self.norm.stats.x.integers(x, torch.int64), factors[..., :1], factors[..., 1:])

    def schedule(self) -> Schedule:
        beats = self.inputs[X].row_beats
        middle, last = Step((X,), (X,), (OUT,), (OUT,)), Step((X,), (X, R), (OUT,), (OUT,))
        first = Step((X, R), (X,), (OUT,), (OUT,))
        more = (Loop(beats - 2, (middle,)),) if beats > 2 else ()
        row = (first, *more, last) if beats > 1 else (Step((X, R), (X, R), (OUT,), (OUT,)),)
        actor = Actor("", (Loop(self.norm.rows, row),), {OUT: self.latency})
        return Schedule((actor,), ports={port: ("", port) for port in (X, R, OUT)})

    def sv_params(self) -> Mapping[str, int]:
        norm, x, out = self.norm, self.norm.stats.x, dict(self.norm.out.sv_params(self.norm.sum_width))
        assert out.pop("MultBits") == 0
        return {
            "Rows": norm.rows,
            "Cols": norm.cols,
            "Lanes": self.lanes,
            "XWidth": x.width,
            "XSigned": int(x.signed),
            "XExpBits": x.exp_bits,
            "XBlock": max(1, x.block),
            "Centred": int(norm.stats.centred),
            "RWidth": self.inputs[R].grid.width,
            "RootBits": norm.roots.bits,
            "DiffWidth": norm.diff_bits,
            "MultWidth": norm.mult_bits,
            "AddWidth": norm.add_bits,
            "SumWidth": norm.sum_width,
            **out,
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        layout = "word i, lane l: constant of element i * lanes + l of a row; 0 beyond its end"
        return {
            "MultFile": self._image(self.norm.multiplier, self.norm.mult_bits, layout),
            "AddFile": self._image(self.norm.addend, self.norm.add_bits, layout),
        }

    def _image(self, constants: Tensor, width: int, layout: str) -> MemoryImage:
        padded = pad(constants, (0, self.inputs[X].row_beats * self.lanes - self.norm.cols))
        return MemoryImage(self.lanes * width, pack_words(padded.reshape(-1, self.lanes).numpy(), width), layout)

    def part(self) -> Part:
        return self.norm.sizes.part(self.lanes, self.fifo)
