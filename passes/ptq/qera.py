"""QERA: the low-rank branch of least error in the outputs, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from passes.ptq.base import METHODS, Layer
from passes.ptq.fields import choice
from passes.ptq.lowrank import LowRank

Variant = Literal["exact", "approx", "identity"]
SUMS = {"exact": ("gram",), "approx": ("squares",), "identity": ()}


@METHODS.add("qera")
@dataclass(frozen=True)
class Qera(LowRank):
    """Minimise the expected squared error of the outputs.

    Args:
        variant: ``exact`` takes the correlations of all inputs, ``approx`` takes inputs as uncorrelated, ``identity``
            as uncorrelated and of one size, which is LQER.

    Source: C. Zhang et al., QERA, ICLR 2025, theorems 1 and 2.
    """

    variant: Variant = "exact"
    needs: ClassVar[tuple[str, ...]] = ("gram", "squares")

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("qera.variant", self.variant, get_args(Variant))

    @property
    def wanted(self) -> tuple[str, ...]:
        return SUMS[self.variant]

    def metric(self, layer: Layer) -> Tensor | None:
        if self.variant == "exact":
            return layer.seen.autocorrelation(layer.path)
        if self.variant == "approx":
            return layer.seen.need("squares", layer.path).to(torch.float64) / max(1, layer.seen.tokens)
        return None
