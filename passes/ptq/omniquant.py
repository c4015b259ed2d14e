"""OmniQuant: ranges of groups, and factors between layers, learned against the block's float output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.int import Int
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Block, Layer, Method, Stage
from passes.ptq.blockwise import Kept, Runner, batches, straight
from passes.ptq.fields import number, seeded, whole
from passes.ptq.folds import Fold, factors_of, folds
from passes.ptq.groups import Steps, grouped, groups_of

START = 4.0  # of the logits of ranges
LEAST = 1e-5


@METHODS.add("omniquant")
@dataclass(frozen=True)
class OmniQuant(Method):
    """Learn ``high = sigmoid(g) max w`` and ``low = sigmoid(b) min w`` of each group (LWC), and factors of pairs (LET).

    Args:
        format: integers with groups or channels and an integer zero point. epochs: over all samples, 1..1000.
        lwc_lr, let_lr: of AdamW for ranges and for factors. let: learn factors; else ranges alone.
        alpha: of the first factors, ``max|x|^alpha / max|w|^(1 - alpha)``. batch: samples a step. seed: of their order.

    Source: W. Shao et al., OmniQuant, 2023, equations 2 to 4; without shifts, which need biases to fold into.
    """

    format: str = "int4g128a"
    epochs: int = 10
    lwc_lr: float = 1e-2
    let_lr: float = 5e-3
    let: bool = True
    alpha: float = 0.5
    batch: int = 1
    seed: int = 42
    needs: ClassVar[tuple[str, ...]] = ("peak",)
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "quantizer"

    def __post_init__(self) -> None:
        ranged("omniquant.format", self.format)
        whole("omniquant.epochs", self.epochs, 1, 1000)
        for name in ("lwc_lr", "let_lr"):
            number(f"omniquant.{name}", getattr(self, name), 0, 1, above=True)
        number("omniquant.alpha", self.alpha, 0, 1)
        whole("omniquant.batch", self.batch, 1, 1024)
        seeded("omniquant.seed", self.seed)

    def run(self, block: Block) -> None:
        found = [fold for fold in folds(block, self.needs) if _free(block, fold)] if self.let else []
        starts = [self._start(fold) for fold in found]
        for fold, start in zip(found, starts, strict=True):
            block.fold(fold.pair.folded(block.graph, start))
        parts = {layer.path: _Ranges(layer, self.format) for layer in block.layers()}
        if not parts:
            return
        logs = [torch.zeros(fold.pair.features, requires_grad=True) for fold in found]
        runner = Runner(block, "omniquant")
        best = self._trained(runner, parts, found, logs)
        for fold, log in zip(found, best, strict=True):
            block.fold(fold.pair.folded(block.graph, fold.pair.tied(log.exp())))
        for layer in block.layers():
            block.write(layer.path, parts[layer.path].packed(layer.weight))

    def _start(self, fold: Fold) -> Tensor:
        peak = fold.layers[0].seen.need("peak", f"omniquant: {fold.layers[0].path}").clamp(min=LEAST)
        weight = fold.columns().abs().amax(0).clamp(min=LEAST)
        return fold.pair.tied(peak**self.alpha / weight ** (1 - self.alpha))

    def _trained(
        self, runner: Runner, parts: Mapping[str, _Ranges], found: Sequence[Fold], logs: Sequence[Tensor]
    ) -> list[Tensor]:
        """Leave the ranges of the step of the least loss in ``parts``, and return the factors' logarithms of it."""
        ranges = [logit for part in parts.values() for logit in part.logits]
        groups = [{"params": ranges, "lr": self.lwc_lr}, {"params": list(logs), "lr": self.let_lr}]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)
        steps = self.epochs * max(1, len(runner.samples) // self.batch)
        least, best = float("inf"), [torch.zeros_like(log) for log in logs]
        for step, which in enumerate(batches(len(runner.samples), self.batch, steps, self.seed)):
            optimizer.zero_grad()
            factors = [fold.pair.tied(log.exp()) for fold, log in zip(found, logs, strict=True)]
            columns, rows = factors_of(found, factors)
            weights = {path: _effective(part, columns.get(path), rows.get(path)) for path, part in parts.items()}
            loss = runner.backward(weights, which)
            if runner.checked(loss, step) < least:
                least, best = loss, [log.detach().clone() for log in logs]
                for part in parts.values():
                    part.keep()
            optimizer.step()
        for part in parts.values():
            part.back()
        return best


def ranged(where: str, text: str) -> None:
    """Refuse a format without ranges that can be learned."""
    fmt = grouped(where, text)
    if not isinstance(fmt, Int) or fmt.zero != "int":
        raise ConfigError(
            f"{where}: format {text} has no ranges to learn; allowed are integers with a zero point, such as int4g128a"
        )


class _Ranges(Kept):
    """The ranges of one layer's groups while they are learned."""

    def __init__(self, layer: Layer, text: str) -> None:
        self.groups = groups_of(parse(text), layer.weight, f"omniquant: {layer.path}")
        self.weight = layer.weight
        shape = (len(layer.weight), self.groups.count)
        self.logits = [torch.full(shape, START, requires_grad=True) for _ in range(2)]
        self.keep()

    def state(self) -> tuple[Tensor, ...]:
        return tuple(self.logits)

    def steps(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps and zero points before they are rounded, with gradients."""
        parts = weight.split(self.groups.size, 1)
        low = torch.stack([part.amin(1) for part in parts], 1).clamp(max=0) * torch.sigmoid(self.logits[0])
        high = torch.stack([part.amax(1) for part in parts], 1).clamp(min=0) * torch.sigmoid(self.logits[1])
        step = ((high - low) / (self.groups.high - self.groups.low)).clamp(min=LEAST)
        return step, -low / step

    def rounded(self, weight: Tensor) -> Tensor:
        """Return weights on the grid of the ranges now, rounding taken as the identity backwards."""
        step, zero = self.steps(weight)
        stored = self.groups.snap(step.detach()).float()
        step = (stored - step).detach() + step
        zero = straight(zero).clamp(self.groups.low, self.groups.high)
        s, z = self.groups.spread(step), self.groups.spread(zero)
        return s * ((straight(weight / s) + z).clamp(self.groups.low, self.groups.high) - z)

    def packed(self, weight: Tensor) -> PackedWeight:
        """Return weights as they are stored."""
        with torch.no_grad():
            step, zero = self.steps(weight)
            steps = Steps(self.groups.snap(step), zero.round().clamp(self.groups.low, self.groups.high).to(torch.int64))
            return PackedWeight((len(weight), weight.shape[1]), (self.groups.nearest(weight, steps),))


def _free(block: Block, fold: Fold) -> bool:
    """Tell whether a pair may have factors: no expert, and nothing of it is quantized already."""
    paths = (fold.pair.path, *fold.pair.paths)
    return not fold.layers[0].expert and all(block.packed(path) is None for path in paths)


def _effective(part: _Ranges, columns: Tensor | None, rows: Tensor | None) -> Tensor:
    weight = part.weight if columns is None else part.weight * columns
    weight = weight if rows is None else weight / rows.unsqueeze(1)
    y = part.rounded(weight)
    y = y if rows is None else y * rows.unsqueeze(1)
    return y if columns is None else y / columns
