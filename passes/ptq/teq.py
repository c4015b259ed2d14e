"""TEQ: factors between layers, trained against the block's float output, and folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.formats import Format, parse
from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.blockwise import Runner, batches, named
from passes.ptq.fields import number, seeded, whole
from passes.ptq.folds import Fold, factors_of, folds, rounded

WARM = 0.05  # of the steps


@METHODS.add("teq")
@dataclass(frozen=True)
class Teq(Method):
    """Train one factor a feature of every pair by ``Q(W a) (x / a)``, rounding taken as the identity backwards.

    Args:
        format: that weights are rounded to while factors are trained; give the quantizer behind it the same.
        iters: steps of Adam, 1..100000. lr: of the first step after the warm-up, falling to 0. batch: samples a step.
        seed: of their order.

    Source: W. Cheng et al., TEQ, 2023; with a block's squared error instead of the whole model's loss.
    """

    format: str = "int4g128a"
    iters: int = 200
    lr: float = 1e-3
    batch: int = 8
    seed: int = 42
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "fold"

    def __post_init__(self) -> None:
        whole("teq.iters", self.iters, 1, 100_000)
        number("teq.lr", self.lr, 0, 1, above=True)
        whole("teq.batch", self.batch, 1, 1024)
        seeded("teq.seed", self.seed)

    def run(self, block: Block) -> None:
        found = [fold for fold in folds(block) if not _expert(fold)]
        if not found:
            return
        factors = self._trained(Runner(block, "teq"), found, named(block.layers()), parse(self.format))
        for fold, factor in zip(found, factors, strict=True):
            block.fold(fold.pair.folded(block.graph, fold.pair.tied(factor)))

    def _trained(
        self, runner: Runner, found: Sequence[Fold], weights: Mapping[str, Tensor], fmt: Format
    ) -> list[Tensor]:
        """Return the factors of the step of the least loss."""
        logs = [torch.zeros(fold.pair.features, requires_grad=True) for fold in found]
        optimizer = torch.optim.Adam(logs, lr=self.lr, betas=(0.9, 0.9))
        least, best = float("inf"), [torch.ones(fold.pair.features) for fold in found]
        for step, which in enumerate(batches(len(runner.samples), self.batch, self.iters, self.seed)):
            optimizer.param_groups[0]["lr"] = self.lr * _schedule(step, self.iters)
            optimizer.zero_grad()
            factors = [fold.pair.tied(log.exp()) for fold, log in zip(found, logs, strict=True)]
            loss = runner.backward(effective(found, factors, weights, fmt), which)
            if runner.checked(loss, step) < least:
                least, best = loss, [factor.detach().clone() for factor in factors]
            optimizer.step()
        every, plain = list(range(len(runner.samples))), [torch.ones_like(factor) for factor in best]
        losses = [runner.loss(effective(found, factors, weights, fmt), every) for factors in (best, plain)]
        return best if losses[0] < losses[1] else plain  # the least loss of a few samples may be luck


def effective(
    found: Sequence[Fold], factors: Sequence[Tensor], weights: Mapping[str, Tensor], fmt: Format
) -> dict[str, Tensor]:
    """Return what layers multiply their unscaled inputs with, all rounded: ``Q(W a) / a`` where a pair has factors.

    A layer whose rows absorb factors is rounded with these, so that a fold of all pairs gives the same numbers.
    """
    columns, rows = factors_of(found, factors)
    out: dict[str, Tensor] = {}
    for path, weight in weights.items():
        scaled = weight * columns[path] if path in columns else weight
        scaled = scaled / rows[path].unsqueeze(1) if path in rows else scaled
        y = (rounded(fmt, scaled.detach()) - scaled).detach() + scaled
        y = y * rows[path].unsqueeze(1) if path in rows else y
        out[path] = y / columns[path] if path in columns else y
    return out


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARM * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


def _expert(fold: Fold) -> bool:
    return any(layer.expert for layer in fold.layers)
