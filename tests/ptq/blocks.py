"""Blocks of small models for tests: what the engine gives to methods, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mase import interpreter
from mase.calib.edges import Edge, inserted
from mase.calib.statistics import Statistics
from mase.formats.packed import PackedWeight
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models import llama
from passes.ptq.base import Layer


@dataclass
class OneBlock:
    """A block with samples; the float stream and the quantized one are the same."""

    graph: Graph
    given: list[tuple[Tensor, ...]]
    name: str = "blocks.0"
    ties: Sequence[Sequence[str]] = ()
    done: dict[str, PackedWeight] = field(default_factory=dict)
    lowered: dict[str, Tensor] = field(default_factory=dict)
    wanted: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = self.wanted or [interpreter.train(self.graph, x).detach() for x in self.given]

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        nodes = [node for node in self.graph.operators() if node.kind == "linear"]
        seen = {node.path: Statistics() for node in nodes}
        if wanted:
            for sample in self.given:
                values = interpreter.run(self.graph, sample, keep=True)
                for node in nodes:
                    seen[node.path].add(values.real(node.inputs[0].name), wanted)
        return [self._layer(node.path, node.tensor("weight").detach(), seen[node.path]) for node in nodes]

    def _layer(self, path: str, weight: Tensor, seen: Statistics) -> Layer:
        low = self.lowered.get(path)
        return Layer(path, weight, seen) if low is None else Layer(path, low, seen, target=weight)

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        return self.given

    def targets(self) -> Sequence[Tensor]:
        return self.wanted

    def packed(self, path: str) -> PackedWeight | None:
        return self.done.get(path)

    def write(self, path: str, weight: PackedWeight) -> None:
        self.done[path] = weight

    def round(self, edges: Sequence[Edge]) -> None:
        self.graph = inserted(self.graph, edges)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        self.graph = self.graph.replace(tensors=tensors)

    def lower(self, path: str, weight: Tensor) -> None:
        self.lowered[path] = weight

    def error(self) -> float:
        """Return the mean squared error of what the block gives on its packed weights."""
        keys = {self.graph.node(path).record.key("weight"): w.dense() for path, w in self.done.items()}
        graph = self.graph.replace(tensors=keys)
        pairs = zip(self.given, self.wanted, strict=True)
        return float(torch.stack([(interpreter.train(graph, x) - y).square().mean() for x, y in pairs]).mean())


def llama_block(
    dim: int = 32, heads: int = 4, kv: int = 2, hidden: int = 48, samples: int = 12, length: int = 16
) -> OneBlock:
    """Return a decoder layer with random weights, on random tokens some of whose features are large."""
    torch.manual_seed(0)
    module = llama.Block(dim, llama.Attention(dim, heads, kv), llama.FeedForward(dim, hidden)).eval()
    for norm in (module.norm1, module.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    cos, sin = llama.tables(length, dim // heads, 10_000.0)
    x = torch.randn(samples, length, dim)
    x[:, :, ::7] *= 5
    given = [(x[i : i + 1], cos, sin) for i in range(samples)]
    graph, _ = trace_module(module, given[0])
    return OneBlock(graph, given)
