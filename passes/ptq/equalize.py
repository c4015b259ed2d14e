"""Cross-layer equalization: two layers behind each other share the range of each feature between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.fields import whole
from passes.ptq.folds import folds

LEAST = 1e-8


@METHODS.add("equalize")
@dataclass(frozen=True)
class Equalize(Method):
    """Scale features between two layers so that ``max|w|`` of a row before and of a column behind are equal.

    Pairs are layers with nothing, a ReLU, a product with a gate, or attention between them. No data is needed.

    Args:
        rounds: over all pairs, 1..100: a layer may be in two.

    Source: M. Nagel et al., Data-Free Quantization Through Weight Equalization, 2019, equation 11.
    """

    rounds: int = 1
    stage: ClassVar[Stage] = "fold"

    def __post_init__(self) -> None:
        whole("equalize.rounds", self.rounds, 1, 100)

    def run(self, block: Block) -> None:
        for _ in range(self.rounds):
            for fold in folds(block):
                if fold.pair.norm:
                    continue
                rows = block.graph.tensors[fold.pair.weight].detach().abs().amax(1)
                rows = rows if fold.pair.rows is None else rows[fold.pair.rows]
                columns = fold.columns().abs().amax(0)
                factors = (rows.clamp(min=LEAST) / columns.clamp(min=LEAST)).sqrt()
                block.fold(fold.pair.folded(block.graph, fold.pair.tied(factors)))
