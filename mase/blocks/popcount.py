"""The linear unit for binary weights and inputs that are signs: agreements are counted (hw/popcount)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mase.blocks.linear import LinearBlock, LinearFoldings
from mase.blocks.sums import Sums
from mase.dataflow.part import Part, adder_tree
from mase.dataflow.work import Count, Work, clog2
from mase.formats.grid import Grid


def counts(sums: Sums) -> bool:
    """Tell whether the sums are those of inputs in -1, 0, 1 and weights in -1, 1."""
    x, w = sums.x, sums.w
    signs = (x.width, x.signed, x.low, x.high, x.block, sums.zero) == (2, True, -1, 1, 0, 0)
    return signs and not w.block and sums.packed is None and bool((sums.weight.abs() == 1).all())


def no_zero(x: Grid) -> bool:
    """Tell whether no element of a tensor is 0; lanes beyond its end are."""
    return x.signs is not None and not x.signs.zero


@dataclass(frozen=True)
class PopcountFoldings(LinearFoldings):
    """The unit before it is folded; fields as there, and whether an input may be 0."""

    zeros: bool = True

    @classmethod
    def counting(cls, sums: Sums, zeros: bool) -> PopcountFoldings:
        """Build for sums; their weights do not matter."""
        return replace(cls.of(sums), zeros=zeros)

    def has_zero(self, simd: Count) -> Count:
        """Tell whether a lane may carry 0."""
        return np.logical_or(self.zeros, self.cols % simd).astype(np.int64)

    def rom_shapes(self, simd: Count, pe: Count) -> list[tuple[Count, Count]]:
        o, k = self.out_tiles(pe), self.tiles(simd)
        shapes: list[tuple[Count, Count]] = [(pe * simd, o * k), (pe * self.bias_width, o)]
        return [*shapes, (pe * self.mult_bits, o)] if self.mult_bits else shapes

    def _summed(self, simd: Count, pe: Count) -> Part:
        counted = pe + self.has_zero(simd)  # the counts
        agree = Part(Work(gates=((pe * simd, 3),), registers=counted * simd), latency=1)
        tree = adder_tree(simd, 1, clog2(simd) + 1, counted)
        taken = Work(adders=((pe, clog2(simd) + 1),))
        total = Work(accumulators=((pe, self.acc_width),), registers=pe * self.acc_width)
        return agree >> tree >> (Part(taken) & Part(total, latency=1))


@dataclass(frozen=True, eq=False)
class PopcountBlock(LinearBlock):
    """The unit: ``simd`` inputs beside ``pe`` outputs a cycle.

    Args:
        zeros: an input may be 0, beside lanes beyond the end of a row.
    """

    zeros: bool = True
    sv_module: ClassVar[str] = "mase_popcount"

    @cached_property
    def foldings(self) -> PopcountFoldings:
        return PopcountFoldings.counting(self.sums, self.zeros)

    @property
    def has_zero(self) -> bool:
        """Tell whether a lane may carry 0."""
        return bool(self.foldings.has_zero(self.simd))

    def sv_params(self) -> Mapping[str, int]:
        given = super().sv_params()
        kept = ("Rows", "Parts", "Inputs", "Sets", "Outputs", "Simd", "Pe", "AccWidth", "BiasWidth", "FifoDepth")
        out = self.sums.out.sv_params(self.sums.raw_width)
        return {**{name: given[name] for name in kept}, **out, "HasZero": int(self.has_zero)}

    def _weights(self) -> tuple[npt.NDArray[np.int64], int, str]:
        weight = self._padded(self.sums.weight, self.sums.cols, self.in_tiles * self.simd)
        return (weight < 0).astype(np.int64), 1, "; a weight is 1 where it is -1"
