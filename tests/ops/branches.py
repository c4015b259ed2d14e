"""Small mapped graphs that fork and join again: two branches of one input, and what joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.testing import Mapped
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import fed


class Joined(nn.Module):
    """Join two branches of an input."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.join, self.left, self.right = join, left, right

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.left(x), self.right(x))


def quantized(
    model: nn.Module, x: Tensor, source: str, formats: Mapping[str, NodeFormats | str], default: str | None = None
) -> Graph:
    """Return a fused graph with formats: of the input, and of results by path (``default`` of the others)."""
    graph = fuse(trace_module(model.eval(), (x,))[0])[0]
    given = {path: fmt if isinstance(fmt, NodeFormats) else NodeFormats(output=fmt) for path, fmt in formats.items()}
    config = QuantizeConfig(NodeFormats(default, default), given, source)
    return quantize.run(graph, config, [x])[0]


def mapped(graph: Graph, x: Tensor, folding: Mapping[str, tuple[int, int]] | None = None) -> Mapped:
    """Return a graph with lanes by path, and the codes that it is fed: real ones, then corners."""
    lanes = {path: Folding(*pair) for path, pair in (folding or {}).items()}
    done = map_graph(graph, MapConfig(folding=lanes))[0]
    return Mapped(done, fed(done, x))


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
