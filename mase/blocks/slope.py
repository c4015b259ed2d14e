"""Scale negative elements by constants of their place, all others by one: y = round((x < 0 ? m : p) x) (hw/slope)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mase.blocks.affine import AffineFoldings, AffineUnit, Scaling, rows_alike
from mase.blocks.output import Output
from mase.blocks.unit import output
from mase.dataflow.block import Block, MemoryImage
from mase.dataflow.part import Part, control, last_call, product, rom, shift
from mase.dataflow.rounding import MULT_BITS, carrier
from mase.dataflow.work import Count, Work, ceil_div
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid, signed_width
from mase.formats.whole import whole


@dataclass(frozen=True, eq=False)
class Slopes(Scaling):
    """Say what is multiplied, in integers; fields as there, with addends of 0.

    Args:
        positive: multiplier of what is not negative.
    """

    positive: int

    @classmethod
    def over(
        cls, x: Grid, y: Grid, scales: tuple[Tensor | None, Tensor | None], slopes: Tensor, mode: str, where: str
    ) -> Self:
        """Build from real slopes, float64 ``[rows, cols]`` as elements travel.

        Multipliers have 16 bits and a sign, and one power of two serves all of them.

        Args:
            scales: real scales of input and result, None for 1.

        Raises:
            UnsupportedOp: a slope is not a number, or a product is too wide.
        """
        source, target = (torch.ones(()).double() if s is None else s.double() for s in scales)
        ratio = source / target
        if not bool(torch.isfinite(slopes * ratio).all()) or not float(ratio) > 0:
            raise UnsupportedOp(f"{where}: a slope of a channel is infinite or NaN; allowed are finite numbers")
        k = MULT_BITS - int(np.frexp(max(float((slopes * ratio).abs().amax()), float(ratio)))[1])
        multiplier, positive = (whole((t * 2.0**k).round()) for t in (slopes * ratio, ratio))
        multiplier = multiplier[slice(0, 1) if rows_alike(multiplier) else slice(None)].contiguous()
        below, above = (whole_end << x.span for whole_end in (x.low, x.high))
        ends = [0, int(positive) * above, *(m * below for m in multiplier.unique().tolist())]
        low, high = min(ends), max(ends)
        out = Output.of(y, None, None, x.unit - k, max(-low, high), False, mode, where)
        rows, cols = slopes.shape
        return cls(rows, cols, x, multiplier, torch.zeros_like(multiplier), out, signed_width(low, high), int(positive))

    def integers(self, code: Code) -> Tensor:
        most = max(int(self.multiplier.abs().max()), self.positive)
        dtype = carrier(self.out.total, self.x.reach, most)
        dtype = torch.float64 if dtype == torch.float32 else dtype
        x = self.x.integers(code, dtype)
        return x * torch.where(x < 0, self.multiplier.to(dtype), torch.tensor(self.positive, dtype=dtype))

    def scalar(self, row: int, codes: list[int], exponents: list[int] | None) -> tuple[list[int], list[int] | None]:
        constants = self.multiplier[row % self.multiplier.shape[0]].tolist()
        if exponents is not None:
            codes = [x << exponents[i // self.x.block] - self.x.base for i, x in enumerate(codes)]
        return self.out.scalar([(m if x < 0 else self.positive) * x for x, m in zip(codes, constants, strict=True)])

    @property
    def mult_width(self) -> int:
        return signed_width(int(self.multiplier.min()), max(int(self.multiplier.max()), self.positive))

    @cached_property
    def foldings(self) -> SlopeFoldings:
        return SlopeFoldings(*self._sizes())

    def blocks(self, lanes: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        found = super().blocks(lanes, fifos)
        return {**found, "": SlopeUnit(self, lanes, fifo=found[""].fifo)}


@dataclass(frozen=True)
class SlopeFoldings(AffineFoldings):
    """The unit before it is folded; fields as there."""

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        most = (1 << self.x_exp_bits) - 1 if self.x_block else 0
        beats, wide = ceil_div(self.cols, pe), self.x_bits + most
        words = self.constants * beats
        chosen: Part = pe * Part(Work(muxes=((self.mult_width, 2),)))
        factor: Part = pe * product(wide, self.mult_width, self.sum_width, words)
        shifted: Part = pe * shift(wide, most)
        rounded = output(pe, self.sum_width, self.out_width, self.beat_bits(pe), not self.normaliser)
        path = (shifted & rom(pe * self.mult_width, words)) >> (chosen & factor) >> rounded
        return control(counters=(self.rows * beats, words)) & path.along(np.greater(self.rows * beats, 1))


@dataclass(frozen=True, eq=False)
class SlopeUnit(AffineUnit):
    """The unit on ``lanes`` elements a cycle."""

    sv_module: ClassVar[str] = "mase_slope"

    def sv_params(self) -> Mapping[str, int]:
        given = dict(super().sv_params())
        del given["AddWidth"]
        assert isinstance(self.scaling, Slopes)
        return {**given, "Positive": self.scaling.positive}

    def memories(self) -> Mapping[str, MemoryImage]:
        (name, image), *_ = super().memories().items()
        return {name: image}
