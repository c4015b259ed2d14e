"""Lanes, FIFO depths and pauses decide how fast a design is, nothing else: codes on all named edges stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.schedule import Timing, attempt
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.netlist import build
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import fed
from tests.emit.proof import difference

FEW = 2  # designs of each network in one compiled model
NIGHTLY = 13  # models: 26 designs of each network
MOST_LANES = 24  # products a cycle of one operator
DEEPER = 9  # most beats that a FIFO has more than it needs


class Residual(nn.Module):
    """A block around which the image goes as it is, and one around which it goes through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.around = nn.Conv2d(4, 6, 3, 2, padding=1), nn.Conv2d(4, 6, 1, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = (self.conv(x) + x).relu()
        x = (self.down(x) + self.around(x)).relu()
        y: Tensor = self.fc(self.pool(x).flatten(1))
        return y


def cnn() -> nn.Module:
    """Return convolutions, one of them depthwise, between a maximum pool and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ReLU6(),
        nn.Conv2d(4, 6, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


Kind = tuple[type[nn.Module] | object, tuple[int, ...], QuantizeConfig]
NETWORKS: Mapping[str, Kind] = {
    "cnn": (cnn, (1, 6, 6), QuantizeConfig(NodeFormats("int4c", "int6"))),
    "residual": (
        Residual,
        (2, 5, 5),
        QuantizeConfig(
            NodeFormats("fixed5", "fixed7"),
            {"conv": NodeFormats("mxint4b2e3", output="mxint6b2e4"), "down": NodeFormats("e2m1", output="fixed6")},
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class Quantized:
    """A network with formats, what it is fed, and the codes of every edge by the reference."""

    graph: Graph
    code: Code
    expected: Mapping[str, Code]


@cache
def quantized(name: str) -> Quantized:
    model, shape, config = NETWORKS[name]
    torch.manual_seed(0)
    assert callable(model)
    x = torch.randn(16, *shape)
    graph, _ = trace_module(model().eval(), (x[:2],))
    graph, _ = quantize.run(fuse(graph)[0], config, [x])
    code = fed(graph, x)
    return Quantized(graph, code, build(graph).codes(code))


@cache
def mapped(name: str, seed: int) -> Graph:
    """Return the network with drawn lanes and depths, of which none stops the design."""
    rng, graph = Random(f"{name} {seed}"), quantized(name).graph
    folding = {}
    for node, op in build(graph).ops.items():
        pairs = list(zip(*(side.tolist() for side in op.foldings.lanes()), strict=True))
        few = [(simd, pe) for simd, pe in pairs if simd * pe <= MOST_LANES]
        if not op.foldings.follows:
            folding[graph.node(node).path] = Folding(*rng.choice(few or pairs))
    graph, _ = map_graph(graph, MapConfig(folding=folding))
    return shallow if runs(shallow := drawn(rng, graph, least=False)) else drawn(rng, graph, least=True)


def drawn(rng: Random, graph: Graph, least: bool) -> Graph:
    """Return the graph with FIFOs of drawn depths: deeper than needed, as needed, or (unless ``least``) shallower."""
    records = {node.name: node.record for node in graph.nodes() if node.record.hw is not None}
    for node, record in records.items():
        assert record.hw is not None
        fifos = {
            key: rng.choice((depth if least else rng.randint(LEAST_FIFO, depth), depth, depth + rng.randint(1, DEEPER)))
            for key, depth in record.hw.fifos.items()
        }
        records[node] = replace(record, hw=replace(record.hw, fifos=fifos))
    return graph.replace(records)


def runs(graph: Graph) -> bool:
    return isinstance(attempt(*build(graph).network(), 3), Timing)


def check(seeds: range, folder: Path) -> None:
    """Run designs side by side, freely and with pauses of their own, and compare all edges with one reference."""
    names = [(name, seed) for name in NETWORKS for seed in seeds]
    graphs = [mapped(*name) for name in names]
    tops = [f"{name}{seed}" for name, seed in names]
    designs = [emit(graph, folder / top, top) for graph, top in zip(graphs, tops, strict=True)]
    fed_with = [quantized(name) for name, _ in names]
    for rng in (None, Random(seeds.start)):
        stalls = [(0.0, 0.0) if rng is None else (rng.uniform(0, 0.6), rng.uniform(0, 0.6)) for _ in names]
        jobs = [
            Job(design, (given.code,), *stall, seed=1 + seed)
            for design, given, stall, (_, seed) in zip(designs, fed_with, stalls, names, strict=True)
        ]
        for given, graph, stall, result in zip(fed_with, graphs, stalls, simulate_many(jobs), strict=True):
            same_codes(given, result, f"{result.design.top}, pauses {stall}")
            if rng is None:
                due = build(graph).timing(len(result.completions))
                assert result.cycles == due, f"{result.design.top}: {result.completions[:4]}, predicted {due}"


def same_codes(given: Quantized, result: SimResult, what: str) -> None:
    assert set(result.codes) == {edge.name for edge in result.design.edges} <= set(given.expected), what
    for edge, code in result.codes.items():
        assert not (text := difference(given.expected[edge], code)), f"{what}, edge {edge}: {text}"


@pytest.mark.parametrize("name", NETWORKS)
def test_draws_differ(name: str) -> None:
    graphs = [mapped(name, seed) for seed in range(2 * FEW)]
    lanes = {tuple(str(n.record.hw.fold) for n in g.operators() if n.record.hw) for g in graphs}
    assert len(lanes) == 2 * FEW
    assert len({build(graph).interval() for graph in graphs}) > 1
    assert len({tuple(build(graph).depths().values()) for graph in graphs}) == 2 * FEW


@pytest.mark.sim
@pytest.mark.slow
def test_codes_do_not_depend_on_the_folding(tmp_path: Path) -> None:
    check(range(FEW), tmp_path)


@pytest.mark.sim
@pytest.mark.nightly
@pytest.mark.parametrize("group", range(NIGHTLY))
def test_codes_do_not_depend_on_any_of_52_foldings(group: int, tmp_path: Path) -> None:
    check(range(group * FEW, (group + 1) * FEW), tmp_path)
