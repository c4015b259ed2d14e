"""AWQ: features that inputs make large keep finer weights; then ranges of groups are clipped where that helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.calib.absorb import scores
from mase.formats import Format, parse
from passes.ptq.base import METHODS, Block, Layer, Method, Stage
from passes.ptq.fields import whole
from passes.ptq.folds import Fold, folds, rounded, scaled_error
from passes.ptq.groups import grouped, groups_of

LEAST = 1e-4
SHRINKS = tuple(1 - 0.05 * k for k in range(1, 10))  # of a group's range


@METHODS.add("awq")
@dataclass(frozen=True)
class Awq(Method):
    """Scale features by ``mean|x|^r``, with the r of the least output error; then search each group's range.

    Args:
        format: for which factors and ranges are searched; give the quantizer behind it the same.
        points: of r in [0, 1), 1..200. duo: divide factors by ``mean|w|^(1 - r)``.
        clip: lower the greatest weights of groups where the output error falls; not of queries and keys.

    Source: J. Lin et al., AWQ, 2023, equations 4 and 5.
    """

    format: str = "int4g128a"
    points: int = 20
    duo: bool = False
    clip: bool = True
    needs: ClassVar[tuple[str, ...]] = ("absolute", "gram")
    stage: ClassVar[Stage] = "fold"

    def __post_init__(self) -> None:
        whole("awq.points", self.points, 1, 200)
        if self.clip:
            grouped("awq.format", self.format)

    @property
    def lowers(self) -> bool:
        return self.clip

    def run(self, block: Block) -> None:
        fmt = parse(self.format)
        for fold in folds(block, self.needs):
            factors = fold.pair.tied(self.factors(fold, fmt))
            block.fold(fold.pair.folded(block.graph, factors))
        if self.clip:
            self._clip(block, fmt)

    def factors(self, fold: Fold, fmt: Format) -> Tensor:
        """Return the factors of the least output error, of ``points`` candidates."""
        first = fold.layers[0]
        mean = first.seen.need("absolute", f"awq: {first.path}") / max(1, first.seen.tokens)
        mean, weight = mean.float().clamp(min=LEAST), fold.columns().abs().mean(0).clamp(min=LEAST)
        least, best = float("inf"), torch.ones_like(mean)
        for i in range(self.points):
            r = i / self.points
            s = mean**r / weight ** (1 - r) if self.duo else mean**r
            s = fold.pair.tied(s / (s.max() * s.min()).sqrt())
            error = scaled_error(fold.layers, s, fmt)
            if error < least:
                least, best = error, s
        return best

    def _clip(self, block: Block, fmt: Format) -> None:
        for layer in block.layers(self.needs):
            if not layer.expert and not scores(block.graph.node(layer.path)):
                block.lower(layer.path, clipped(layer, fmt))


def clipped(layer: Layer, fmt: Format) -> Tensor:
    """Return weights whose greatest magnitudes are lowered, group by group, where the output error falls."""
    groups = groups_of(fmt, layer.weight, f"awq: {layer.path}")
    size, best, weight = groups.size, layer.weight.clone(), layer.weight
    gram = layer.seen.autocorrelation(f"awq: {layer.path}").to(torch.float32)
    top = torch.cat([part.abs().amax(1, keepdim=True) for part in weight.split(size, 1)], 1)
    least = _errors(rounded(fmt, weight) - weight, gram, size)
    for shrink in SHRINKS:
        bound = groups.spread(top * shrink)
        small = torch.minimum(torch.maximum(weight, -bound), bound)
        error = _errors(rounded(fmt, small) - weight, gram, size)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(groups.spread(better), small, best)
    return best


def _errors(error: Tensor, gram: Tensor, size: int) -> Tensor:
    """Return the squared output error of each group alone, ``[outputs, groups]``."""
    starts = range(0, error.shape[1], size)
    parts = [(error[:, i : i + size], gram[i : i + size, i : i + size]) for i in starts]
    return torch.stack([((e @ g) * e).sum(1) for e, g in parts], 1)
