"""Small models and steps that the tests of post-training quantization share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mase.formats import parse
from mase.formats.packed import PackedWeight
from mase.frontend import trace
from mase.graph import Graph
from mase.models.base import build
from passes.ptq.base import Block, Layer, Method, Quantizer

VOCABULARY, LENGTH = 64, 8
SIZES: Mapping[str, Any] = {"vocab": VOCABULARY, "dim": 32, "hidden": 48, "layers": 3}


@cache
def graph(name: str = "llama", **options: Any) -> Graph:
    """Trace a tiny model of our own with random weights."""
    torch.manual_seed(0)
    return trace(build(name, {**SIZES, **options}).eval(), tokens(2))[0]


def tokens(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Watched(Quantizer):
    """Round to nearest, once the Gram matrix is there; keep what was seen."""

    format: str = "int4g16f"
    needs: ClassVar[tuple[str, ...]] = ("gram",)
    seen: ClassVar[list[Layer]] = []

    def layer(self, layer: Layer) -> PackedWeight:
        layer.seen.need("gram", layer.path)
        self.seen.append(layer)
        return PackedWeight.of(layer.weight, parse(self.format))


@dataclass(frozen=True)
class Streams(Method):
    """Keep the samples and the targets of each block, and round to nearest."""

    format: str = "int2g16f"
    blockwise: ClassVar[bool] = True
    seen: ClassVar[list[tuple[list[tuple[Tensor, ...]], list[Tensor]]]] = []

    def run(self, block: Block) -> None:
        self.seen.append((list(block.samples()), list(block.targets())))
        for layer in block.layers():
            block.write(layer.path, PackedWeight.of(layer.weight, parse(self.format)))


@dataclass(frozen=True)
class Halve(Method):
    """Fold a factor from the norm before the feed-forward part into its layers."""

    factor: float = 2.0

    def run(self, block: Block) -> None:
        for layer in block.layers(("peak",)):
            if layer.path.endswith("feed.gate"):
                root = layer.path.removesuffix("feed.gate")
                keys = [f"{root}feed.gate.weight", f"{root}feed.up.weight"]
                tensors = {key: block.graph.tensors[key] * self.factor for key in keys}
                norm = f"{root}norm2.weight"
                block.fold({**tensors, norm: block.graph.tensors[norm] / self.factor})


@dataclass(frozen=True)
class Branch(Method):
    """Add a low-rank branch of the error to what the step before wrote."""

    rank: int = 4

    def run(self, block: Block) -> None:
        for layer in block.layers():
            packed = block.packed(layer.path)
            assert packed is not None
            u, s, v = torch.linalg.svd(layer.weight - packed.dense())
            a, b = v[: self.rank].contiguous(), u[:, : self.rank] * s[: self.rank]
            parts = PackedWeight.of(a, parse("mxint8b32")), PackedWeight.of(b.contiguous(), parse("mxint8b32"))
            block.write(layer.path, PackedWeight(packed.shape, packed.pieces, packed.map_bits, parts))


def conv1d() -> nn.Module:
    """Return a tiny GPT-2, whose layers store their weights transposed."""
    from tests.frontend.families.models import FAMILIES

    return next(f for f in FAMILIES if f.name == "GPT-2").build()[0]
