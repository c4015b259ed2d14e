"""What a drawn graph is made from: plain data, so that a failure can be shrunk, kept as a file, and run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.interpreter import run
from mase.netlist import Netlist, build
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.proof import Case, joined
from tests.fuzz.kinds import KINDS, Shape

REAL, CORNERS = 3, 5  # samples of real data, and of codes drawn among the extremes


@dataclass(frozen=True)
class Node:
    """One node.

    Args:
        kind: of ``KINDS``. sources: values that it takes, 0 the input, i + 1 the result of node i.
        options: of the kind. formats: fields of NodeFormats.
    """

    kind: str
    sources: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A graph with its formats, its lanes, its FIFOs, and how it is stalled.

    Args:
        outputs: values that leave, as ``sources`` counts them.
        seed: of weights, data and pauses. shape: of a sample. inputs: format. scale: of the data, a power of two.
        lanes: by graph node, where a folding is fixed; the cheapest where not.
        deeper: what is added to the depth of each FIFO, in order. stalls: chances of a pause of source and sink.
        fused: merge a layer and the ReLU behind it.
    """

    seed: int
    shape: tuple[int, ...]
    inputs: str
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    scale: int = 0
    lanes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    deeper: int = 0
    stalls: tuple[float, float] = (0.0, 0.0)
    fused: bool = True

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # JSON
        """Read what :meth:`text` wrote."""
        nodes = tuple(Node(**{**node, "sources": tuple(node["sources"])}) for node in data["nodes"])
        lanes = {node: (simd, pe) for node, (simd, pe) in data["lanes"].items()}
        whole = {**data, "nodes": nodes, "lanes": lanes, "shape": tuple(data["shape"]), "stalls": tuple(data["stalls"])}
        whole["outputs"] = tuple(data["outputs"])
        return cls(**whole)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file."""
        return cls.from_json(json.loads(path.read_text()))

    def text(self) -> str:
        """Return JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def shapes(self) -> list[Shape]:
        """Return the shapes of all values, the input's first.

        Raises:
            ValueError: a node does not fit.
        """
        found: list[Shape] = [self.shape]
        for node in self.nodes:
            found.append(KINDS[node.kind].shape(node.options, [found[i] for i in node.sources]))
        return found

    def x(self) -> Tensor:
        """Return real inputs."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(8, *self.shape, generator=generator) * 2.0**self.scale

    def traced(self) -> Graph:
        """Return the graph before it has formats."""
        several = tuple(range(len(self.outputs))) if len(self.outputs) > 1 else None
        graph, _ = trace_module(Model(self).eval(), (self.x()[:2],), output=several)
        return fuse(graph)[0] if self.fused else graph

    def quantized(self) -> Graph:
        """Return the graph with formats."""
        graph = self.traced()
        wanted = {f"{path_of(i)}*": NodeFormats(**node.formats) for i, node in enumerate(self.nodes)}
        paths = [node.path for node in graph.operators()]
        kept = {glob: given for glob, given in wanted.items() if any(path.startswith(glob[:-1]) for path in paths)}
        config = QuantizeConfig(NodeFormats("int6c", "fixed8.4"), overrides=kept, inputs=self.inputs)
        return quantize.run(graph, config, [self.x()])[0]

    def mapped(self) -> Graph:
        """Return the graph with lanes and FIFO depths."""
        graph = self.quantized()
        by_path = {graph.node(n).path: Folding(*lanes) for n, lanes in self.lanes.items()}
        graph = map_graph(graph, MapConfig(folding=by_path))[0]
        if not self.deeper:
            return graph
        records = {node.name: node.record for node in graph.nodes() if node.record.hw is not None}
        for node, record in records.items():
            assert record.hw is not None
            fifos = {key: depth + self.deeper for key, depth in record.hw.fifos.items()}
            records[node] = replace(record, hw=replace(record.hw, fifos=fifos))
        return graph.replace(records)

    def case(self, title: str) -> Case:
        """Return the mapped graph with what it is fed."""
        graph = self.mapped()
        return Case(title, graph, fed(build(graph), self.x()[:REAL]))


def path_of(index: int) -> str:
    """Return the module path of a node."""
    return f"n{index:02d}"


class Model(nn.Module):
    """Run the nodes of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.sources, self.outputs = [node.sources for node in recipe.nodes], recipe.outputs
        shapes = recipe.shapes()
        for i, node in enumerate(recipe.nodes):
            made = KINDS[node.kind].module(node.options, [shapes[j] for j in node.sources])
            self.add_module(path_of(i), made)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = [x]
        for i, sources in enumerate(self.sources):
            values.append(getattr(self, path_of(i))(*(values[j] for j in sources)))
        found = tuple(values[i] for i in self.outputs)
        return found if len(found) > 1 else found[0]


def fed(netlist: Netlist, x: Tensor) -> Code:
    """Return the codes of real inputs, and after them codes drawn among the extremes."""
    real = run(netlist.graph, (x,), keep=True).codes[netlist.entry]
    grid, draw = netlist.stream_in.grid, torch.Generator().manual_seed(7)

    def among(shape: tuple[int, ...], low: int, high: int) -> Tensor:
        anything = torch.randint(low, high + 1, shape, generator=draw)
        ends = torch.where(torch.rand(shape, generator=draw) < 0.5, low, high)
        return torch.where(torch.rand(shape, generator=draw) < 0.5, anything, ends)

    mantissa = among((CORNERS, *real.mantissa.shape[1:]), grid.low, grid.high)
    mantissa[0], mantissa[1] = grid.low, grid.high
    exponent = None
    if real.exponent is not None:
        exponent = grid.base + among((CORNERS, *real.exponent.shape[1:]), 0, grid.span)
    return joined([real, Code(mantissa, exponent)])
