"""The output side that computing units share: multiplier, then one rounding or one block normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from mase.blocks.banks import Gathered
from mase.blocks.block_normalise import BlockNormalise, element_scalar, elements, normalise, normalise_scalar
from mase.blocks.block_scale import BlockScale, Bounds
from mase.blocks.encode import Encode
from mase.blocks.sign import Sign, edge
from mase.dataflow.rounding import FLOAT_SAFE, INT_BITS, MODES, MULT_BITS, Rounding, dyadic
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.base import pow2
from mase.formats.block_scales import BlockScales
from mase.formats.grid import Grid, Signs
from mase.formats.whole import whole

MOST_SHIFT = 900  # powers of two, far from the ends of float64


@dataclass(frozen=True, eq=False)
class Output:
    """Turn exact integers into codes: y = zero + round(m * t), m and the shift fixed before any data.

    Codes of blocks, floats and signs are made by a block behind the unit, which leaves its integers unrounded: *raw*.

    Args:
        grid: the result's codes.
        relu: max(t, 0) first.
        multiplier: int64 ``[channels]`` or ``[1]``, or None where the ratio of units is one power of two.
        shift: of the rounding, where it is not raw.
        unit: exponent of the integer 1 after the multiplier, where it is.
        total: greatest absolute value after the multiplier.
        mode: rounding.
        warnings: what a user should know of the multipliers. edge: greatest integer whose sign is 0, of ternary codes.
        bounds: of codes under scales of blocks.
    """

    grid: Grid
    relu: bool
    multiplier: Tensor | None
    shift: int
    unit: int
    total: int
    mode: str = "even"
    warnings: tuple[str, ...] = ()
    edge: int = 0
    bounds: Bounds | None = None

    @classmethod
    def of(
        cls,
        grid: Grid,
        scale: Tensor | None,
        target: Tensor | None,
        unit: int,
        top: int,
        relu: bool,
        mode: str,
        where: str,
    ) -> Output:
        """Build from the real scale of the integers and of the target (None: 1), and the exponent of their unit.

        Args:
            unit: exponent of the integers' 1. top: greatest absolute value of the integers.
        """
        if mode not in MODES:
            raise UnsupportedOp(f"{where}: rounding {mode!r}; allowed: {', '.join(MODES)}")
        raw = grid.raw
        if raw and mode != "even":
            what = "a block format" if grid.block else "a floating-point format" if grid.pattern else "signs"
            raise UnsupportedOp(f"{where}: rounding {mode!r} into {what}; allowed: even")
        if grid.signs is not None:
            divided = grid.scaled and target is None
            out = cls._of_signs(grid, grid.signs, divided, scale, unit, top, relu, where)
        elif grid.scales is not None:
            out = cls._of_scales(grid, grid.scales, grid.scaled and target is None, scale, unit, top, relu, where)
        elif scale is None and target is None:
            out = cls(grid, relu, None, grid.unit - unit, unit, top, mode)
        else:
            ratio = torch.ones(1, dtype=torch.float64) if scale is None else scale.reshape(-1).double()
            ratio = ratio if target is None else ratio / target.reshape(-1).double()
            m, k, notes = dyadic(ratio, where)
            out = cls(grid, relu, m, k + grid.unit - unit, unit - k, top * int(m.max()), mode, tuple(notes))
        if abs(out.shift) > MOST_SHIFT:
            raise UnsupportedOp(
                f"{where}: the units of result and sums lie 2**{out.shift} apart; allowed is up to 2**{MOST_SHIFT}"
            )
        bits = out.total.bit_length() + 1
        if bits > INT_BITS or (raw and out.total >= FLOAT_SAFE):
            allowed = 53 if raw else INT_BITS
            raise UnsupportedOp(
                f"{where}: the exact result before rounding takes {bits} bits; allowed are {allowed}: "
                "use narrower formats, or accumulation aligned(G)"
            )
        return out

    @classmethod
    def _of_signs(
        cls,
        grid: Grid,
        signs: Signs,
        divided: bool,
        scale: Tensor | None,
        unit: int,
        top: int,
        relu: bool,
        where: str,
    ) -> Output:
        """Build for signs; integers of one scale are compared as they are, so that nothing is rounded before.

        Args:
            divided: the integers are over the scale of the signs already.
        """
        threshold = Fraction(signs.threshold) / (Fraction(signs.scale) if divided else 1)
        ratio = torch.ones(1, dtype=torch.float64) if scale is None else scale.reshape(-1).double()
        if bool((ratio > 0).all()) and (not signs.zero or bool((ratio == ratio[0]).all())):
            return cls(grid, relu, None, 0, unit, top, edge=edge(threshold / Fraction(float(ratio[0])), unit))
        m, k, notes = dyadic(ratio, where)
        found = edge(threshold, unit - k)
        return cls(grid, relu, m, 0, unit - k, top * int(m.max()), warnings=tuple(notes), edge=found)

    @classmethod
    def _of_scales(
        cls,
        grid: Grid,
        scales: BlockScales,
        divided: bool,
        scale: Tensor | None,
        unit: int,
        top: int,
        relu: bool,
        where: str,
    ) -> Output:
        """Build for blocks with scales; integers of one scale are compared as they are, so that none is rounded before.

        Args:
            divided: the integers are over the scale of the tensor already.
        """
        ratio, factor = Fraction(1), Fraction(scales.tensor) if divided else Fraction(1)
        m, notes = None, list[str]()
        if scale is not None:
            real = scale.reshape(-1).double()
            if bool((real == real[0]).all()) and float(real[0]) > 0:
                ratio = Fraction(float(real[0]))
            else:
                m, k, notes = dyadic(real, where)
                unit, top = unit - k, top * int(m.max())
        bounds = Bounds.of(scales, ratio * factor * Fraction(2) ** unit)
        return cls(grid, relu, m, 0, unit, top, warnings=tuple(notes), bounds=bounds)

    @property
    def rounding(self) -> Rounding:
        """The rounding where it is not raw, to codes less the zero point; a ReLU is its lower bound."""
        low, high = self.grid.low - self.grid.zero, self.grid.high - self.grid.zero
        return Rounding(self.shift, max(low, 0) if self.relu else low, high, self.mode)

    @property
    def raw(self) -> bool:
        """Tell whether the unit leaves exact integers, for the block behind it."""
        return self.grid.raw

    @property
    def mult_bits(self) -> int:
        """Bits of the multiplier; 0 without one."""
        return 0 if self.multiplier is None else MULT_BITS

    @property
    def zero_bits(self) -> int:
        """Bits of a result that are always 0: the sign behind a ReLU, what a shift to the left brings in."""
        sign = int(self.relu and (self.grid.signed or self.raw))
        if self.raw or self.grid.zero:
            return sign
        return sign + min(max(-self.shift, 0), self.grid.width - sign)

    def apply(self, t: Tensor) -> Code:
        """Return the codes for integers ``[..., channels]`` held exactly; blocks lie along the last axis."""
        given = self._given(t)
        if not self.raw:
            return Code(whole(given))
        if self.bounds is not None:
            return self.bounds.apply(given.to(torch.float64), self.grid)
        if self.grid.block:
            return normalise(given.to(torch.float64), self.unit, self.grid)
        if self.grid.signs is not None:
            return Code(self.grid.signs.codes(given.to(torch.float64), self.edge))
        return Code(elements(given.to(torch.float64) * pow2(torch.tensor(self.unit - self.grid.unit)), self.grid))

    def given(self, t: Tensor) -> Code:
        """Return what the unit itself gives for these integers: codes, or integers for the normaliser behind it."""
        given = self._given(t)
        wide = given.is_floating_point() and given.numel() > 0 and float(given.abs().max()) >= 2.0**INT_BITS
        return Code(given if wide else whole(given))  # wide ones have 53 significant bits, so float64 holds them

    def _given(self, t: Tensor) -> Tensor:
        if self.multiplier is not None:
            narrow = self.total < FLOAT_SAFE and t.dtype != torch.int64
            t = (t.to(torch.float64) if narrow else whole(t)) * self.multiplier
        if not self.raw:
            return self.rounding.apply(t).add_(self.grid.zero)
        return t.clamp_min(0) if self.relu else t

    def describe(self, column: int) -> str:
        """Say what becomes of the integers of one column."""
        words = ["max(t, 0)"] if self.relu else []
        if self.multiplier is not None:
            words.append(f"times {int(self.multiplier[column if self.multiplier.numel() > 1 else 0])}")
        if self.bounds is not None:
            return ", ".join([*words, "left to the block of scales"])
        if self.grid.block:
            return ", ".join([*words, "left to the block normaliser"])
        if self.grid.signs is not None:
            return ", ".join([*words, "left to the block of signs"])
        divided = f"over 2**{self.shift}" if self.shift >= 0 else f"times 2**{-self.shift}"
        return ", ".join([*words, divided, f"rounded {self.mode}, within {self.grid.low}..{self.grid.high}"])

    def scalar(self, row: list[int]) -> tuple[list[int], list[int] | None]:
        """Return mantissas and exponents of one row of Python integers: the oracle of :meth:`apply`."""
        if self.multiplier is not None:
            m = self.multiplier.tolist()
            row = [t * m[i if len(m) > 1 else 0] for i, t in enumerate(row)]
        if not self.raw:
            return [self.rounding.scalar(t) + self.grid.zero for t in row], None
        row = [max(t, 0) for t in row] if self.relu else row
        if self.bounds is not None:
            return self.bounds.scalar(row, self.grid.block)
        if self.grid.block:
            return normalise_scalar(row, self.unit, self.grid)
        if self.grid.signs is not None:
            return [self.grid.signs.scalar(t, self.edge) for t in row], None
        return [element_scalar(t, self.grid.unit - self.unit, self.grid) for t in row], None

    def sv_params(self, raw_width: int) -> Mapping[str, int]:
        """Return the RTL parameters of this side for integers of ``raw_width`` bits."""
        raw = self.raw
        right = 0 if raw else min(max(self.shift, 0), raw_width + 1)
        left = 0 if raw else min(max(-self.shift, 0), self.grid.width + 1)
        return {
            "MultBits": self.mult_bits,
            "RawOut": int(raw),
            "OutWidth": raw_width if raw else self.grid.width,
            "OutSigned": int(self.grid.signed),
            "Narrow": int(self.grid.signed and self.grid.low == -self.grid.high),
            "Relu": int(self.relu),
            "ShiftRight": right,
            "ShiftLeft": left,
            "RoundMode": MODES.index(self.mode),
            "Zero": self.grid.zero,
        }

    def normaliser(self, rows: int, cols: int, lanes: int, raw_width: int, fifo: int) -> Gathered | Encode | Sign:
        """Return the block that follows where the unit's integers are raw; its role is ``normalise``."""
        if self.grid.signs is not None:
            return Sign(rows, cols, lanes, raw_width, self.unit, self.grid, self.edge, fifo=fifo)
        if not self.grid.block:
            return Encode(rows, cols, lanes, raw_width, self.unit, self.grid, fifo=fifo)
        if self.bounds is not None:
            return BlockScale(rows, cols, lanes, raw_width, self.unit, self.grid, self.bounds, fifo=fifo)
        return BlockNormalise(rows, cols, lanes, raw_width, self.unit, self.grid, fifo=fifo)

    def raw_grid(self, raw_width: int) -> Grid:
        """Return the grid of the stream between the operator and the block behind it, else the result's grid."""
        if not self.raw:
            return self.grid
        return Grid(raw_width, True, -self.total, self.total, self.unit)
