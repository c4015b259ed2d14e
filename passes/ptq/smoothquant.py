"""SmoothQuant: outliers of activations move into the weights behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mase.errors import ConfigError
from passes.ptq.base import METHODS, Block, Method
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
    folds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"smoothquant: alpha is {self.alpha}; allowed are 0..1")
        if self.pairs not in ("all", "norms"):
            raise ConfigError(f"smoothquant: pairs is {self.pairs!r}; allowed are 'all' and 'norms'")

    def run(self, block: Block) -> None:
        for fold in folds(block, self.needs, self.pairs):
            peak = fold.layers[0].seen.need("peak", f"smoothquant: {fold.layers[0].path}").clamp(min=LEAST)
            weight = fold.columns().abs().amax(0).clamp(min=LEAST)
            factors = fold.pair.tied(peak**self.alpha / weight ** (1 - self.alpha))
            block.fold(fold.pair.folded(block.graph, factors))
