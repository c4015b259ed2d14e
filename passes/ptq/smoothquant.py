"""SmoothQuant: outliers of activations move into the weights behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.fields import choice, number
from passes.ptq.folds import Which, folds

LEAST = 1e-5


@METHODS.add("smoothquant")
@dataclass(frozen=True)
class SmoothQuant(Method):
    """Divide each feature by ``s = max|x|^alpha / max|w|^(1 - alpha)``, and multiply the weights behind it.

    Args:
        alpha: 0..1. pairs: ``norms`` alone, or ``all``.

    Source: G. Xiao et al., SmoothQuant, 2022, equation 4.
    """

    alpha: float = 0.5
    pairs: Which = "norms"
    needs: ClassVar[tuple[str, ...]] = ("peak",)
    stage: ClassVar[Stage] = "fold"

    def __post_init__(self) -> None:
        number("smoothquant.alpha", self.alpha, 0, 1)
        choice("smoothquant.pairs", self.pairs, get_args(Which))

    def run(self, block: Block) -> None:
        for fold in folds(block, self.needs, self.pairs):
            peak = fold.layers[0].seen.need("peak", f"smoothquant: {fold.layers[0].path}").clamp(min=LEAST)
            weight = fold.columns().abs().amax(0).clamp(min=LEAST)
            factors = fold.pair.tied(peak**self.alpha / weight ** (1 - self.alpha))
            block.fold(fold.pair.folded(block.graph, factors))
