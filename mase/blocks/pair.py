"""Sum, difference or product of two streams, element by element, with one rounding (hw/pair)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.unit import Behind, UnitFoldings, output
from mase.dataflow.block import Block
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, delay, last_call
from mase.dataflow.rounding import FLOAT_SAFE, carrier, dyadic
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Lanes, Work, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.base import pow2
from mase.formats.grid import Grid
from mase.formats.whole import whole

A, B = "a", "b"
EXACT_BITS = 48  # widest sum that is taken exactly
GUARD = 8  # bits that a cut sum keeps below the greater of its terms
SUM_BITS = 53  # widest sum or product that carries exponents


class Scale(NamedTuple):
    """Real scales of the two operands and of the result; None is 1."""

    a: Tensor | None = None
    b: Tensor | None = None
    y: Tensor | None = None

    @property
    def real(self) -> bool:
        """Tell whether there is one."""
        return any(scale is not None for scale in self)


@dataclass(frozen=True)
class Operand:
    """One side of a pair: mantissas times ``mult``, 2**``shift`` of the common unit each."""

    grid: Grid
    mult: int = 1
    shift: int = 0

    @property
    def mult_bits(self) -> int:
        """Bits of the multiplier; 0 without one."""
        return self.mult.bit_length() if self.mult != 1 else 0

    @property
    def bits(self) -> int:
        """Bits of a mantissa times the multiplier."""
        return self.grid.element_bits + self.mult_bits

    @property
    def window(self) -> int:
        """Greatest exponent above the base that its field can hold."""
        return (1 << self.grid.exp_bits) - 1 if self.grid.block else 0

    @property
    def span(self) -> int:
        """Greatest exponent above the base that occurs."""
        return self.grid.span if self.grid.block else 0

    @property
    def most(self) -> int:
        """Greatest absolute value of a mantissa times the multiplier."""
        return max(-self.grid.low, self.grid.high) * self.mult

    def mantissas(self, code: Code) -> Tensor:
        """Return mantissas times the multiplier."""
        return code.mantissa.to(torch.float64) * self.mult

    def levels(self, code: Code) -> Tensor:
        """Return the exponent of each element above the common unit."""
        if code.exponent is None:
            return torch.full_like(code.mantissa, self.shift)
        above = (code.exponent - self.grid.base + self.shift).repeat_interleave(self.grid.block, -1)
        return above[..., : code.mantissa.shape[-1]]


@dataclass(frozen=True)
class Pairing:
    """What a pair computes before its rounding, in integers.

    Args:
        a, b: operands. product: a * b, else a + b, or a - b where ``minus``.
        guard: None for an exact sum; else terms are cut that many bits below the greater exponent of the two.
    """

    a: Operand
    b: Operand
    product: bool = False
    minus: bool = False
    guard: int | None = None

    @classmethod
    def of_sum(
        cls, a: Grid, b: Grid, y: Grid, scale: Scale, minus: bool, relu: bool, mode: str, where: str
    ) -> tuple[Self, Output]:
        """Return a sum and its output side: operands on the finer unit; real scales become dyadics with one shift.

        Raises:
            UnsupportedOp: the sum is too wide, or a scale vanishes beside the other.
        """
        mults, k, notes, target = [1, 1], 0, list[str](), None
        if y.scales is not None:  # bounds hold the scale of the tensor
            scale, target = scale._replace(y=None), torch.ones(1, dtype=torch.float64)
        if scale.real:
            ratios = [torch.ones(1, dtype=torch.float64) if s is None else s.reshape(-1).double() for s in scale]
            m, k, notes = dyadic(torch.cat(ratios[:2]) / ratios[2], where)
            mults = m.tolist()
        unit = min(a.unit, b.unit)
        left, right = (Operand(g, m, g.unit - unit) for g, m in zip((a, b), mults, strict=True))
        exact = cls(left, right, minus=minus)
        found = exact if exact.bits <= EXACT_BITS else cls(left, right, minus=minus, guard=GUARD)
        out = Output.of(y, None, target, unit - k - (found.guard or 0), found.most, relu, mode, where)
        return found, found._checked(replace(out, warnings=tuple(notes)), where)

    @classmethod
    def of_product(
        cls, a: Grid, b: Grid, y: Grid, scale: Scale, relu: bool, mode: str, where: str
    ) -> tuple[Self, Output]:
        """Return a product and its output side.

        Raises:
            UnsupportedOp: it is too wide.
        """
        found = cls(Operand(a), Operand(b), product=True)
        both = [s.reshape(-1).double() for s in scale[:2] if s is not None]
        real = None if not both else torch.stack(both).prod(0)
        out = Output.of(y, real, scale.y, a.unit + b.unit, found.most, relu, mode, where)
        return found, found._checked(out, where)

    def _checked(self, out: Output, where: str) -> Output:
        bits = out.total.bit_length() + 1
        if self.raised and bits > SUM_BITS:
            raise UnsupportedOp(
                f"{where}: the {'product' if self.product else 'sum'} takes {bits} bits beside its exponent; "
                f"allowed are {SUM_BITS}: use narrower formats"
            )
        return out

    @property
    def raised(self) -> bool:
        """Tell whether an exponent comes with each sum or product."""
        return self.guard is not None or (self.product and self.a.grid.block + self.b.grid.block > 0)

    @property
    def bits(self) -> int:
        """Bits of a sum or product, without its exponent."""
        if self.product:
            return self.a.bits + self.b.bits
        if self.guard is not None:
            return max(self.a.bits, self.b.bits) + self.guard + 1
        return max(side.bits + side.window + side.shift for side in (self.a, self.b)) + 1

    @property
    def most(self) -> int:
        """Greatest absolute value of a sum or product, without its exponent."""
        if self.product:
            return self.a.most * self.b.most
        if self.guard is not None:
            return (self.a.most + self.b.most) << self.guard
        return sum(side.most << side.span + side.shift for side in (self.a, self.b))

    @property
    def exp_max(self) -> int:
        """Greatest exponent that comes with a sum or product."""
        if not self.raised:
            return 0
        if self.product:
            return self.a.span + self.b.span
        return max(side.span + side.shift for side in (self.a, self.b))

    @property
    def stages(self) -> int:
        """Cycles to the sum or product."""
        return 2 + (self.a.mult_bits + self.b.mult_bits > 0) + (self.guard is not None)

    def integers(self, a: Code, b: Code) -> Tensor:
        """Return the sums or products on one unit: float64 with at most 53 significant bits, else int64."""
        if self.product and not self.raised:
            narrow = self.most < FLOAT_SAFE
            x, y = (c.mantissa.to(torch.float64) if narrow else c.mantissa for c in (a, b))
            return x * y
        if not self.raised and not self.a.grid.block + self.b.grid.block:
            dtype = carrier(self.most, self.a.most, self.b.most)
            x, y = (c.mantissa.to(dtype) * (side.mult << side.shift) for c, side in ((a, self.a), (b, self.b)))
            return x.sub_(y) if self.minus else x.add_(y)
        x, y = self.a.mantissas(a), self.b.mantissas(b)
        up, down = self.a.levels(a), self.b.levels(b)
        if self.product:
            return x * y * pow2(up) * pow2(down)
        top = torch.zeros_like(up)
        if self.guard is not None:
            top = torch.maximum(up, down)
            x, y = ((t * pow2(level - top + self.guard)).floor_() for t, level in ((x, up), (y, down)))
        else:
            x, y = x * pow2(up), y * pow2(down)
        return (x - y if self.minus else x + y) * pow2(top)

    def scalar(self, x: int, e: int, y: int, f: int) -> int:
        """Return one sum or product of Python integers with exponents above their bases: the oracle of the above."""
        if self.product:
            return x * y << e + f
        x, y, e, f = x * self.a.mult, y * self.b.mult, e + self.a.shift, f + self.b.shift
        sign = -1 if self.minus else 1
        if self.guard is None:
            return (x << e) + sign * (y << f)
        top = max(e, f)
        return ((x << self.guard >> top - e) + sign * (y << self.guard >> top - f)) << top


@dataclass(frozen=True)
class PairFoldings(UnitFoldings):
    """A pair before it is folded.

    Args:
        rows, cols: shape. pairing: its arithmetic. out_width, out_block: of the result. mult_bits, mult_zeros: of the
            multiplier behind a product. raw_width: bits of what is rounded. normaliser: what follows where the result
            has blocks. zero_bits: of a result that are always 0.
    """

    rows: int
    cols: int
    pairing: Pairing
    out_width: int
    out_block: int
    mult_bits: int
    mult_zeros: int
    raw_width: int
    normaliser: Behind | None
    zero_bits: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        sides = self.pairing.a.grid.block, self.pairing.b.grid.block
        lanes = tile_lanes(self.cols, *sides, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * ceil_div(self.cols, pe), pe)

    def beat_bits(self, pe: Count) -> Count:
        return pe * ((self.out_width if self.normaliser is None else self.raw_width) - self.zero_bits)

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        pair, beats = self.pairing, self.rows * ceil_div(self.cols, pe)
        joined: Part = pe * self._joined()
        path = joined >> output(
            pe,
            pair.bits,
            self.out_width,
            self.beat_bits(pe),
            not self.normaliser,
            mult_bits=self.mult_bits,
            zeros=self.mult_zeros,
            exp_max=pair.exp_max,
            aligned=pair.raised,
        )
        exponents = delay(pe * pair.exp_max.bit_length() * pair.raised, pair.stages)
        return control(counters=(beats,)) & exponents & path.along(np.greater(beats, 1))

    def _joined(self) -> Part:
        """Return one lane up to the sum or product, with what finds the exponents."""
        pair, sides = self.pairing, (self.pairing.a, self.pairing.b)
        shifters = [(1, pair.bits - 1, pair.exp_max) for _ in sides if pair.guard is not None]
        if not pair.raised:
            shifters = [(1, side.bits + side.window, side.window) for side in sides if side.grid.block]
        products = [(1, side.bits - side.mult_bits, side.mult_bits + 1) for side in sides if side.mult_bits]
        held = sum(side.bits + (0 if pair.raised else side.window) for side in sides) * (pair.stages - 1)
        exponents = ((1, pair.exp_max.bit_length()),) * (2 * pair.raised)
        operands = Part(
            Work(multipliers=tuple(products), adders=exponents, shifters=tuple(shifters), registers=held),
            latency=pair.stages - 1,
        )
        if pair.product:
            return operands >> Part(
                Work(multipliers=((1, sides[0].bits, sides[1].bits),), registers=pair.bits), latency=1
            )
        return operands >> Part(Work(adders=((1, pair.bits),), registers=pair.bits), latency=1)


@dataclass(frozen=True, eq=False)
class Pair(Block):
    """Two streams of one shape, ``lanes`` elements of each a cycle.

    Args:
        rows, cols, lanes: of all streams. pairing: arithmetic up to the rounding. out: the rounding.
    """

    rows: int
    cols: int
    lanes: int
    pairing: Pairing
    out: Output
    sv_module: ClassVar[str] = "mase_pair"

    def __post_init__(self) -> None:
        for grid in (self.pairing.a.grid, self.pairing.b.grid, self.out.grid):
            check_lanes("pair", grid, self.lanes)

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        sides = {A: self.pairing.a, B: self.pairing.b}
        return {port: StreamType(self.rows, self.cols, self.lanes, side.grid) for port, side in sides.items()}

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        return {OUT: StreamType(self.rows, self.cols, self.lanes, self.out.raw_grid(self.raw_width))}

    @property
    def raw_width(self) -> int:
        """Bits of the integers that are rounded, as the RTL derives them."""
        return self.pairing.bits + self.out.mult_bits + self.pairing.exp_max

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.out.given(self.integers(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self.integers(*inputs), self.out.describe

    def integers(self, a: Code, b: Code) -> Tensor:
        """Return what goes into the output side."""
        t = self.pairing.integers(a, b)
        return t if self.out.total < FLOAT_SAFE else whole(t)

    def schedule(self) -> Schedule:
        beats = self.rows * ceil_div(self.cols, self.lanes)
        body = (Loop(beats, (Step((A, B), (A, B), (OUT,), (OUT,)),)),)
        return Schedule((Actor("", body, {OUT: self.latency}),), ports={p: ("", p) for p in (A, B, OUT)})

    def sv_params(self) -> Mapping[str, int]:
        pair, multiplier = self.pairing, self.out.multiplier
        return {
            "Beats": self.rows * ceil_div(self.cols, self.lanes),
            "Lanes": self.lanes,
            "Product": int(pair.product),
            "Minus": int(pair.minus),
            **_side("A", pair.a),
            **_side("B", pair.b),
            "Aligned": int(pair.raised),
            "Guard": pair.guard or 0,
            "ExpWidth": max(1, pair.exp_max.bit_length()),
            "ExpMax": pair.exp_max,
            "Mult": 1 if multiplier is None else int(multiplier[0]),
            **self.out.sv_params(self.raw_width),
            "FifoDepth": self.fifo,
        }

    @cached_property
    def foldings(self) -> PairFoldings:
        """All that its hardware depends on but the lanes."""
        out, normaliser = self.out, None
        if out.raw:
            normaliser = out.normaliser(self.rows, self.cols, 1, self.raw_width, 2).normaliser
        multiplier = 1 if out.multiplier is None else int(out.multiplier[0])
        return PairFoldings(
            self.rows,
            self.cols,
            self.pairing,
            out.grid.width,
            out.grid.block,
            out.mult_bits,
            (multiplier & -multiplier).bit_length() - 1,
            self.raw_width,
            normaliser,
            out.zero_bits,
        )

    def part(self) -> Part:
        return self.foldings.core(self.lanes, self.lanes, self.fifo)


def _side(name: str, side: Operand) -> dict[str, int]:
    return {
        f"{name}Width": side.grid.width,
        f"{name}Signed": int(side.grid.signed),
        f"{name}ExpBits": side.grid.exp_bits,
        f"{name}Block": max(1, side.grid.block),
        f"{name}MultBits": side.mult_bits,
        f"{name}Mult": side.mult,
        f"{name}Shift": side.shift,
    }
