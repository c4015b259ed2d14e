"""Products of integers and weights, and the words that hold the weights: hw/common/mase_product.sv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.dataflow.part import Part
from mase.dataflow.work import Count, Work
from mase.formats.grid import Grid, Pattern, signed_width


@dataclass(frozen=True)
class Product:
    """How a unit multiplies by its weights: by multipliers, or, where all are +-2**shift or 0, by none.

    Args:
        bits: of a weight as a signed integer. shift: greatest shift of powers of two; None: weights are any integers.
        zeros: a weight is 0. pattern: of a sign, an exponent and a mantissa, by which memories hold integers.
    """

    bits: int
    shift: int | None = None
    zeros: bool = False
    pattern: Pattern | None = None

    @classmethod
    def of(cls, grid: Grid, weight: Tensor) -> Self:
        """Return how to multiply by integers on a plain grid, without their exponents."""
        if not grid.powers:
            made = grid.stored
            packed = made is not None and made.subnormal and not made.own and made.exp > 0
            return cls(grid.element_bits, pattern=made if packed else None)
        return cls(grid.element_bits, max(-grid.low, grid.high).bit_length() - 1, bool((weight == 0).any()))

    @classmethod
    def least(cls, weight: Tensor, powers: bool) -> Self:
        """Return how to multiply by integers of no grid, in as few bits as they take."""
        low, high = int(weight.min()), int(weight.max())
        width = signed_width(low, high)
        if not powers:
            return cls(width)
        return cls(width, max(max(-low, high).bit_length() - 1, 0), bool((weight == 0).any()))

    def stored(self, padded: Count) -> Count:
        """Return the bits of a stored weight; ``padded``: some words hold zeros beyond the end of the weights."""
        if self.pattern is not None:
            return self.pattern.width
        if self.shift is None:
            return self.bits
        return 1 + self.shift.bit_length() + np.logical_or(self.zeros, padded).astype(np.int64)

    def result(self, x_bits: int) -> int:
        """Return the bits of a product."""
        return x_bits + self.factor

    @property
    def factor(self) -> int:
        """Bits that a weight adds to a product."""
        return self.bits if self.shift is None else 1 + self.shift

    def words(self, weight: npt.NDArray[np.int64], padded: bool) -> npt.NDArray[np.int64]:
        """Return what is stored for weights, zeros included only where there are any."""
        if self.pattern is not None:
            return self.pattern.codes(torch.from_numpy(weight.astype(np.float64))).numpy()
        if self.shift is None:
            return weight
        size = np.abs(weight)
        shift = np.frexp(np.maximum(size, 1).astype(np.float64))[1].astype(np.int64) - 1
        field = self.shift.bit_length()
        code = (weight < 0).astype(np.int64) << field | shift
        if not (self.zeros or padded):
            return code
        return np.where(size > 0, code | 1 << field + 1, 0)

    def layout(self) -> str:
        """Say what a stored weight is."""
        if self.pattern is not None:
            return f"; a weight is its sign, {self.pattern.exp} bits of exponent and {self.pattern.man} of mantissa"
        if self.shift is None:
            return ""
        return "; a weight is +-2**shift or 0: [1 where it is not 0], its sign, its shift"

    def work(self, count: Count, x_bits: int) -> Work:
        """Return what so many products are made of, their registers aside."""
        if self.shift is None:
            decoded = ((count * self.bits, 2),) * (self.pattern is not None)
            return Work(multipliers=((count, x_bits, self.bits),), muxes=decoded)
        return Work(adders=((count, x_bits),), shifters=((count, self.result(x_bits), self.shift),) * (self.shift > 0))

    def part(self, x_bits: int, kept: Count, words: Count) -> Part:
        """Return hw/common/mase_product, of whose result so many bits are kept; ``words``: of the ROM of weights."""
        return Part(replace(self.work(1, x_bits), operand_words=words, registers=kept), latency=1)

    def sv_params(self, padded: bool) -> Mapping[str, int]:
        """Return what the RTL knows of a weight."""
        power = self.shift is not None
        return {
            "WWidth": int(self.stored(padded)),
            "WPower": int(power),
            "WExp": 0 if self.pattern is None else self.pattern.exp,
            "WFactor": self.factor,
            "WZero": int(power and (self.zeros or padded)),
        }
