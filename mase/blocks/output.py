"""The output side that computing units share: multiplier, then one rounding or one block normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mase.blocks.block_normalise import BlockNormalise, normalise, normalise_scalar
from mase.dataflow.rounding import FLOAT_SAFE, INT_BITS, MODES, MULT_BITS, Rounding, dyadic
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.formats.whole import whole

MOST_SHIFT = 900  # powers of two, far from the ends of float64


@dataclass(frozen=True, eq=False)
class Output:
    """Turn exact integers into codes: y = round(m * t), m and the shift fixed before any data.

    Args:
        grid: the result's codes.
        relu: max(t, 0) first.
        multiplier: int64 ``[channels]`` or ``[1]``, or None where the ratio of units is one power of two.
        shift: of the rounding, where the grid has no blocks.
        unit: exponent of the integer 1 after the multiplier, where it has.
        total: greatest absolute value after the multiplier.
        mode: rounding.
        warnings: what a user should know of the multipliers.
    """

    grid: Grid
    relu: bool
    multiplier: Tensor | None
    shift: int
    unit: int
    total: int
    mode: str = "even"
    warnings: tuple[str, ...] = ()

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
        if grid.block and mode != "even":
            raise UnsupportedOp(f"{where}: rounding {mode!r} into a block format; allowed: even")
        if scale is None and target is None:
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
        if bits > INT_BITS or (grid.block and out.total >= FLOAT_SAFE):
            allowed = 53 if grid.block else INT_BITS
            raise UnsupportedOp(
                f"{where}: the exact result before rounding takes {bits} bits; allowed are {allowed}: "
                "use narrower formats, or accumulation aligned(G)"
            )
        return out

    @property
    def rounding(self) -> Rounding:
        """The rounding into a grid without blocks; a ReLU is its lower bound."""
        return Rounding(self.shift, max(self.grid.low, 0) if self.relu else self.grid.low, self.grid.high, self.mode)

    @property
    def mult_bits(self) -> int:
        """Bits of the multiplier; 0 without one."""
        return 0 if self.multiplier is None else MULT_BITS

    @property
    def zero_bits(self) -> int:
        """Bits of a result that are always 0: the sign behind a ReLU, what a shift to the left brings in."""
        sign = int(self.relu and (self.grid.signed or self.grid.block > 0))
        return sign if self.grid.block else sign + min(max(-self.shift, 0), self.grid.width - sign)

    def apply(self, t: Tensor) -> Code:
        """Return the codes for integers ``[..., channels]`` held exactly; blocks lie along the last axis."""
        given = self._given(t)
        if not self.grid.block:
            return Code(whole(given))
        return normalise(given.to(torch.float64), self.unit, self.grid)

    def given(self, t: Tensor) -> Code:
        """Return what the unit itself gives for these integers: codes, or integers for the normaliser behind it."""
        given = self._given(t)
        wide = given.is_floating_point() and given.numel() > 0 and float(given.abs().max()) >= 2.0**INT_BITS
        return Code(given if wide else whole(given))  # wide ones have 53 significant bits, so float64 holds them

    def _given(self, t: Tensor) -> Tensor:
        if self.multiplier is not None:
            narrow = self.total < FLOAT_SAFE and t.dtype != torch.int64
            t = (t.to(torch.float64) if narrow else whole(t)) * self.multiplier
        if not self.grid.block:
            return self.rounding.apply(t)
        return t.clamp_min(0) if self.relu else t

    def describe(self, column: int) -> str:
        """Say what becomes of the integers of one column."""
        words = ["max(t, 0)"] if self.relu else []
        if self.multiplier is not None:
            words.append(f"times {int(self.multiplier[column if self.multiplier.numel() > 1 else 0])}")
        if self.grid.block:
            return ", ".join([*words, "left to the block normaliser"])
        divided = f"over 2**{self.shift}" if self.shift >= 0 else f"times 2**{-self.shift}"
        return ", ".join([*words, divided, f"rounded {self.mode}, within {self.grid.low}..{self.grid.high}"])

    def scalar(self, row: list[int]) -> tuple[list[int], list[int] | None]:
        """Return mantissas and exponents of one row of Python integers: the oracle of :meth:`apply`."""
        if self.multiplier is not None:
            m = self.multiplier.tolist()
            row = [t * m[i if len(m) > 1 else 0] for i, t in enumerate(row)]
        if not self.grid.block:
            return [self.rounding.scalar(t) for t in row], None
        return normalise_scalar([max(t, 0) for t in row] if self.relu else row, self.unit, self.grid)

    def sv_params(self, raw_width: int) -> Mapping[str, int]:
        """Return the RTL parameters of this side for integers of ``raw_width`` bits."""
        raw = self.grid.block > 0
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
        }

    def normaliser(self, rows: int, cols: int, lanes: int, raw_width: int, fifo: int) -> BlockNormalise:
        """Return the block that follows where the result has blocks."""
        return BlockNormalise(rows, cols, lanes, raw_width, self.unit, self.grid, fifo=fifo)

    def raw_grid(self, raw_width: int) -> Grid:
        """Return the grid of the stream between the operator and its normaliser, else the result's grid."""
        if not self.grid.block:
            return self.grid
        return replace(self.grid, width=raw_width, low=-self.total, high=self.total, block=0, exp_bits=0)
