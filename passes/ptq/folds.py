"""What folds share: pairs of a block with their layers, statistics of an edge, and the error of its consumers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mase.calib.absorb import Pair, pairs
from mase.calib.edges import rounded_name
from mase.errors import ConfigError
from mase.formats import Format
from mase.formats.base import Axes
from passes.ptq.base import Block, Layer
from passes.ptq.blockwise import EXPERT

Which = Literal["all", "norms"]


@dataclass(frozen=True, eq=False)
class Fold:
    """A pair, and the layers of the block that read its edge and are quantized."""

    pair: Pair
    layers: tuple[Layer, ...]

    def columns(self) -> Tensor:
        """Return all weights that multiply the edge, behind each other, ``[outputs, features]``."""
        return torch.cat([layer.weight for layer in self.layers])


def folds(block: Block, wanted: tuple[str, ...] = (), which: Which = "all") -> Iterator[Fold]:
    """Yield the pairs of a block that have layers to quantize; whoever folds one sees the next after it.

    Raises:
        ConfigError: what layers read is rounded already, so that factors would lie on both sides of the rounding.
    """
    if any(node.name == rounded_name(reader.name) for reader in block.graph.operators() for node in reader.inputs[:1]):
        raise ConfigError(f"block {block.name}: what layers read is rounded; a fold must come before `activations`")
    for name in [pair.edge for pair in pairs(block.graph) if which == "all" or pair.norm]:
        pair = next(pair for pair in pairs(block.graph) if pair.edge == name)
        layers = tuple(layer for layer in block.layers(wanted) if _reads(pair, layer))
        if layers:
            yield Fold(pair, layers)


def _reads(pair: Pair, layer: Layer) -> bool:
    found = EXPERT.fullmatch(layer.path)
    if found is None:
        return layer.path in pair.paths
    return found[1] in pair.paths and layer.weight.shape[1] == pair.features and found[2] == "gate_up"


def rounded(fmt: Format, weight: Tensor) -> Tensor:
    """Return weights rounded to the nearest numbers of a format."""
    return fmt.quantize(weight, fmt.calibrate(weight, fmt.along(Axes())))


def scaled_error(layers: Sequence[Layer], factors: Tensor, fmt: Format) -> float:
    """Return the squared output error of layers whose weights are rounded times factors; needs ``gram``."""
    total = 0.0
    for layer in layers:
        total += layer.output_error(rounded(fmt, layer.weight * factors) / factors)
    return total


def factors_of(found: Sequence[Fold], factors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return by path the factors of the columns of layers, and what the rows of absorbing layers are divided by."""
    columns, rows = dict[str, Tensor](), dict[str, Tensor]()
    for fold, a in zip(found, factors, strict=True):
        columns |= dict.fromkeys((layer.path for layer in fold.layers), a)
        if not fold.pair.norm:
            rows[fold.pair.path] = fold.pair.by_row(a)
    return columns, rows
