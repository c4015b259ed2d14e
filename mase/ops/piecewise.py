"""Functions of one element with codes too wide for a table: a polynomial a segment (hw/piecewise).

The integers are the definition; how they are chosen is here. Segments are 2**s equal parts of the range of codes. In
each, as far as codes can come, the polynomial meets the function at the middle and at 7/8 of the way to either end.
Values there are exact to 48 bits (mase/ops/exact.py), and everything else is single operations of IEEE arithmetic, so
every machine gets the same integers. Of 2**4 to 2**10 segments and degrees 1 and 2 the first choice is taken that lies
within an eighth of a step of the function at four points between. Segments that saturate the result are constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from mase.blocks.output import Output
from mase.blocks.piecewise import PiecewiseFoldings, PiecewiseUnit, Polynomials
from mase.dataflow.block import Block
from mase.dataflow.grid import produced_grid
from mase.dataflow.stream import Travel
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import OpNode
from mase.ops.base import Pointwise, travel
from mase.ops.exact import values
from mase.ops.lookup import MOST_BITS, Domain, unit_of, within

SEGMENTS = range(4, 11)  # bits that name one
ALLOWED = 0.125  # steps of the result between polynomial and function, before integers
GUARD = 8  # bits of t below a step of the result
BLOCK_GUARD = 6  # bits of a step beside those of a mantissa, where the result has blocks
SOME = 64  # values that find the greatest, where the result has blocks
WIDEST = 40  # bits of a coefficient
Floats = npt.NDArray[np.float64]


class Target(NamedTuple):
    """What is approximated, in hashable numbers.

    Args:
        function, attrs: of the node. width, signed: of a code. first, delta: value of the code 0, and of a step.
        step: of the result, or what stands for one. low, high: steps at which the result saturates.
    """

    function: str
    attrs: tuple[tuple[str, Any], ...]
    width: int
    signed: bool
    reach: tuple[int, int]
    first: float
    delta: float
    step: float
    low: float
    high: float

    def steps(self, codes: npt.NDArray[np.int64]) -> Floats:
        """Return the function at codes, in steps of the result."""
        reals = self.first + (codes - self.reach[0]).astype(np.float64) * self.delta
        known = dict.fromkeys(reals.flatten().tolist())
        found = dict(zip(known, values(self.function, dict(self.attrs), [*known]), strict=True))
        return np.array([found[x] for x in reals.flatten().tolist()]).reshape(codes.shape) / self.step


@dataclass(frozen=True, eq=False)
class Piecewise:
    """y = round(t), t by the polynomials.

    Args:
        order: in which elements travel, on both sides. unit: at one lane.
    """

    order: Travel
    unit: PiecewiseUnit

    @classmethod
    def of(cls, node: OpNode, function: str, attrs: Mapping[str, Any], least: float, positive: bool) -> Self:
        """Build for a function of the input of a node; ``least`` is as in :class:`~mase.ops.lookup.Domain`.

        Args:
            positive: the function is never negative, and so are the results.

        Raises:
            UnsupportedOp: as ``Domain``, or no polynomials are near enough, or a format has no hardware.
        """
        domain, where, order = Domain(node, least), node.where(), travel(node.inputs[0])
        domain.check(node, function, attrs)
        fmt, params, x = node.record.output.format, node.params(), domain.grid
        assert fmt is not None
        y = produced_grid(fmt, params, where)
        scale = float(params.scale) if y.scaled and params.scale is not None else 1.0
        unit, low, high = y.unit, float(y.low), float(y.high)
        if y.block:
            some = [*domain.values[:: max(1, len(domain.values) // SOME)], domain.values[-1]]
            real = torch.tensor(values(function, attrs, some)).double() / scale
            unit = unit_of(within(real, y, 1.0), y, BLOCK_GUARD)
            high = math.inf if y.scales is None else math.ceil(y.scales.most * 2.0**-unit)
            low = -high
        first, last = int(domain.codes[0]), int(domain.codes[-1])
        delta = (domain.values[-1] - domain.values[0]) / max(1, last - first)
        numbers = tuple(sorted((key, value) for key, value in attrs.items() if isinstance(value, int | float)))
        target = Target(
            function, numbers, x.width, x.signed, (first, last), domain.values[0], delta, scale * 2.0**unit, low, high
        )
        found = fitted(target)
        if found is None:
            raise UnsupportedOp(
                f"{where}: {function} of {domain.format} is not within {ALLOWED} steps of {fmt} by polynomials of "
                f"degree 2 on {1 << SEGMENTS[-1]} segments; allowed are inputs of up to {MOST_BITS} bits, which a "
                "table takes, or a result of fewer bits"
            )
        t = found.integers(found.every_code)
        mode = node.record.attrs.get("rounding", "even")
        out = Output.of(y, None, None, unit - GUARD, int(t.abs().max()), positive, mode, where)
        return cls(order, PiecewiseUnit(order.rows, order.cols, max(1, y.block), x, found, out))

    def reference(self, *inputs: Code) -> Code:
        rows = self.order.travelling(inputs[0])
        return self._held(self.unit.out.apply(self.unit.polynomials.integers(rows.mantissa)), inputs[0])

    def oracle(self, *inputs: Code) -> Code:
        code = self.order.travelling(inputs[0]).mantissa
        rows = [self.unit.out.scalar([*map(self.unit.polynomials.scalar, row)]) for row in code.flatten(0, 1).tolist()]
        mantissa = torch.tensor([m for m, _ in rows]).reshape(code.shape)
        blocks = torch.tensor([e for _, e in rows]).reshape(*code.shape[:2], -1) if rows[0][1] else None
        return self._held(Code(mantissa, blocks), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        """Return codes of the result as the tensor holds them, shaped as the input."""
        return self.order.held(y, x.mantissa.shape[1:], self.unit.out.grid.block)

    @property
    def foldings(self) -> PiecewiseFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        return self.unit.foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the unit, and the normaliser behind it where the result has blocks."""
        return replace(self.unit, lanes=pe, fifo=fifos.get("", 2)).blocks(fifos)

    def pointwise(self) -> Pointwise | None:
        """Return the function of a code; None where the result has exponents."""
        unit = self.unit
        if unit.out.raw:
            return None
        return Pointwise(
            self.order,
            unit.x,
            unit.out.grid,
            lambda codes: unit.out.apply(unit.polynomials.integers(codes)).mantissa,
        )

    def warnings(self) -> tuple[str, ...]:
        """Return nothing: the error has a bound."""
        return ()


@lru_cache(maxsize=64)
def fitted(target: Target) -> Polynomials | None:
    """Return the first choice of segments and degree that is near enough, or None."""
    for bits in SEGMENTS:
        parts = _Parts.of(target, bits)
        for degree in (1, 2):
            found = parts.polynomials(target, degree)
            if found is not None:
                return found
    return None


@dataclass(frozen=True, eq=False)
class _Parts:
    """The function on 2**bits segments: codes ``[5 to 7, segments]`` from the middle of each, and values in steps.

    Args:
        nodes, met: three codes that the polynomials meet. between, seen: four others.
    """

    bits: int
    nodes: Floats
    met: Floats
    between: Floats
    seen: Floats

    @classmethod
    def of(cls, target: Target, bits: int) -> Self:
        """Evaluate the function; a segment counts as far as codes can come."""
        size = 1 << target.width - bits
        least = -(1 << target.width - 1) if target.signed else 0
        starts = least + size * np.arange(1 << bits, dtype=np.int64)
        low, high = (np.clip(end, *target.reach) for end in (starts, starts + size - 1))
        inset = (high - low) // 16
        nodes = np.stack((low + inset, (low + high) // 2, high - inset))
        between = np.stack((low, (nodes[0] + nodes[1]) // 2, (nodes[1] + nodes[2]) // 2, high))
        middle = starts + size // 2
        seen = [target.steps(codes) for codes in (nodes, between)]
        return cls(bits, (nodes - middle).astype(np.float64), seen[0], (between - middle).astype(np.float64), seen[1])

    def polynomials(self, target: Target, degree: int) -> Polynomials | None:
        """Return polynomials with integer coefficients, or None where they are not near enough or too wide."""
        real = self._real(target, degree)
        error = _clipped(_value(real, self.between), target) - _clipped(self.seen, target)
        rest = target.width - self.bits
        shifts = (GUARD, GUARD + rest - 1, GUARD + 2 * (rest - 1))
        scaled = [row * 2.0**shift for row, shift in zip(real, shifts, strict=False)]
        if not np.abs(error).max() <= ALLOWED or max(np.abs(row).max() for row in scaled) >= 2.0**WIDEST:
            return None
        whole = torch.from_numpy(np.stack([np.rint(row) for row in scaled]).astype(np.int64))
        return Polynomials(target.width, target.signed, self.bits, whole, rest - 1, rest - 1)

    def _real(self, target: Target, degree: int) -> list[Floats]:
        """Return coefficients a, b and c, by Newton's differences; constants where the result saturates."""
        (x0, x1, x2), (y0, y1, y2) = self.nodes, self.met
        gap = np.where(x2 > x0, x2 - x0, 1.0)
        left, right = (np.where(b > a, b - a, 1.0) for a, b in ((x0, x1), (x1, x2)))
        line = (y2 - y0) / gap
        bend = ((y2 - y1) / right - (y1 - y0) / left) / gap if degree == 2 else np.zeros_like(line)
        bend = np.where((x0 < x1) & (x1 < x2), bend, 0.0)
        slope = line - bend * (x0 + x2)
        level = (y0 + y2 - (slope * (x0 + x2) + bend * (x0 * x0 + x2 * x2))) / 2
        if degree == 1:  # half-way between the chord and the middle
            level = level + (y1 - (level + slope * x1)) / 2
        every = np.concatenate((self.met, self.seen))
        for flat, value in (
            (every.min(0) >= target.high + 1, target.high + 1),
            (every.max(0) <= target.low - 1, target.low - 1),
        ):
            level, slope, bend = np.where(flat, value, level), np.where(flat, 0.0, slope), np.where(flat, 0.0, bend)
        return [level, slope, bend][: degree + 1]


def _value(real: Sequence[Floats], z: Floats) -> Floats:
    """Return the polynomials at codes from the middle of each segment."""
    total = np.zeros_like(z)
    for row in reversed(real):
        total = total * z + row
    return total


def _clipped(y: Floats, target: Target) -> Floats:
    return np.clip(y, target.low, target.high)
