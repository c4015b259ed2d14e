"""Layers with correlated inputs, and a block that holds them: what methods are tested on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mase.calib.edges import Edge
from mase.calib.statistics import SUMS, Statistics
from mase.errors import ConfigError
from mase.formats.packed import PackedWeight
from mase.formats.packed_file import from_tensors, to_tensors
from mase.graph import Graph
from passes.ptq.base import Block, Layer, Quantizer


def inputs(tokens: int, features: int, seed: int = 0) -> Tensor:
    """Return correlated tokens ``[tokens, features]`` some of whose features are much greater than others."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=g) / features**0.5
    size = torch.exp(torch.randn(features, generator=g) * 0.8)
    x: Tensor = torch.randn(tokens, features, generator=g) @ (mix * torch.logspace(0, -1.5, features)[:, None]) * size
    return x * 4


def layer(outputs: int = 48, features: int = 64, tokens: int = 512, seed: int = 0, path: str = "mlp.up") -> Layer:
    """Return a layer with all statistics of four samples."""
    seen = Statistics()
    for sample in inputs(tokens, features, seed).chunk(4):
        seen.add(sample, SUMS)
    weight = torch.randn(outputs, features, generator=torch.Generator().manual_seed(seed + 1)) * 0.05
    return Layer(path, weight, seen)


class FakeBlock:
    """Hold layers without a graph."""

    name = "block"
    ties: Sequence[Sequence[str]] = ()

    def __init__(self, *layers: Layer) -> None:
        self._layers, self.found = layers, dict[str, PackedWeight]()

    @property
    def graph(self) -> Graph:
        raise AssertionError("layers alone have no graph and no samples")

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        """Return layers in which only what is wanted is seen."""
        kept = [*wanted, "tokens"]
        return [
            Layer(
                one.path, one.weight, Statistics(**{k: v for k, v in vars(one.seen).items() if k in kept}), one.expert
            )
            for one in self._layers
        ]

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        raise AssertionError("layers alone have no graph and no samples")

    def targets(self) -> Sequence[Tensor]:
        raise AssertionError("layers alone have no graph and no samples")

    def packed(self, path: str) -> PackedWeight | None:
        return self.found.get(path)

    def write(self, path: str, weight: PackedWeight) -> None:
        self.found[path] = weight

    def round(self, edges: Sequence[Edge]) -> None:
        raise ConfigError("this block rounds nothing between layers")

    def fold(self, tensors: dict[str, Tensor]) -> None:
        raise ConfigError("this block folds nothing")

    def lower(self, path: str, weight: Tensor) -> None:
        raise ConfigError("this block lowers nothing")


def as_block(*layers: Layer) -> Block:
    """Return a block; a typed assignment says that the fake has all that the real one has."""
    block: Block = FakeBlock(*layers)
    return block


def applied(packed: PackedWeight) -> Tensor:
    """Return the matrix that a layer multiplies with, its branch included, float64."""
    dense = packed.dense().double()
    if packed.branch is None:
        return dense
    a, b = packed.branch
    return dense + b.dense().double() @ a.dense().double()


def relative_error(one: Layer, dense: Tensor) -> float:
    """Return the squared output error over the squared output."""
    return one.output_error(dense) / one.output_error(torch.zeros_like(one.weight))


def quantized(method: Quantizer, one: Layer) -> PackedWeight:
    """Run a method on one layer, with only the statistics that it says it needs."""
    block = as_block(one)
    method.run(block)
    found = block.packed(one.path)
    assert found is not None
    return found


def check_laws(method: Quantizer, one: Layer) -> PackedWeight:
    """Check what holds for every quantizer, and return what it gave: the file keeps it, all bits are counted."""
    before = one.weight.clone()
    found = quantized(method, one)
    dense = found.dense()
    assert torch.equal(one.weight, before)
    assert dense.dtype == torch.float32 and bool(torch.isfinite(dense).all())
    tensors, told = to_tensors(found)
    again = from_tensors(tensors, told)
    assert torch.equal(again.dense(), dense)
    stored = sum(tensor.numel() * tensor.element_size() * 8 for tensor in tensors.values())
    seed = 0 if found.turn is None else 32  # stands in the description
    assert found.stored_bits() - seed <= stored <= found.stored_bits() + 16 * len(tensors)  # a tensor ends with a byte
    assert found.paper_bits() <= found.stored_bits()
    assert torch.equal(quantized(method, one).dense(), dense)
    return found
