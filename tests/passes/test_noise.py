from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mase.errors import ConfigError, GraphError
from mase.frontend.module import trace_module
from mase.graph import Graph
from passes.base import PASSES
from passes.fuse import fuse
from passes.noise import NoiseConfig, NoiseReport, noise, without_formats
from passes.quantize import NodeFormats, QuantizeConfig, quantize


def floating() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    return fuse(trace_module(model, (torch.zeros(2, 2, 3),))[0])[0]


def quantized(weight: str = "fixed8.6", activation: str = "fixed8.4") -> Graph:
    config = QuantizeConfig(NodeFormats(weight=weight, activation=activation, accumulation="auto"))
    return quantize.run(floating(), config, [torch.randn(16, 2, 3)])[0]


def measured(graph: Graph, *batches: Tensor, reference: Graph | None = None) -> NoiseReport:
    report: NoiseReport = noise.run(graph, NoiseConfig(), reference, batches)[1]
    return report


def test_it_is_registered() -> None:
    assert PASSES["noise"] is noise


def test_the_ratio_of_the_input_is_that_of_its_rounding() -> None:
    x, graph = torch.randn(64, 2, 3), quantized()
    found = measured(graph, x[:40], x[40:], reference=floating())
    wide = x.double()
    rounded = ((wide * 16).round() / 16).clamp(-8, 127 / 16)
    error = rounded - wide
    edge = next(e for e in found.edges if e.path == "0")
    # float64 sums of 384 products in another order
    assert edge.snr_db == pytest.approx(10 * math.log10(float((wide**2).sum() / (error**2).sum())), rel=1e-12)
    assert edge.cosine == pytest.approx(float((wide * rounded).sum() / wide.norm() / rounded.norm()), rel=1e-12)
    assert (edge.max_error, edge.format, found.samples) == (float(error.abs().max()), "fixed8.4", 64)


def test_values_that_the_format_holds_have_no_noise() -> None:
    found = measured(quantized(), torch.randint(-8, 8, (9, 2, 3)) / 2)
    edge = next(e for e in found.edges if e.path == "0")
    assert (edge.snr_db, edge.max_error) == (math.inf, 0.0)
    assert edge.cosine == pytest.approx(1.0, abs=1e-15)


def test_more_bits_have_less_noise() -> None:
    x = torch.randn(64, 2, 3)
    last = [
        measured(quantized(w, a), x).edges[-1].snr_db for w, a in (("fixed4.2", "fixed4.1"), ("fixed8.6", "fixed12.8"))
    ]
    assert last[0] + 12 < last[1]


def test_edges_come_in_order_and_by_name() -> None:
    graph = quantized()
    found = measured(graph, torch.randn(4, 2, 3))
    assert [edge.path for edge in found.edges] == graph.paths()
    assert found.snr_db == {edge.name: edge.snr_db for edge in found.edges}


def test_without_a_reference_the_formats_are_left_away() -> None:
    x, graph = torch.randn(8, 2, 3), quantized("mxint4b4e3", "mxint6b4e4")
    assert measured(graph, x) == measured(graph, x, reference=floating())
    bare = without_formats(graph)
    assert torch.equal(bare(x), floating()(x))
    assert graph.node("1").record.output.format is not None


def test_a_signal_of_zeros_has_no_ratio_but_a_sign() -> None:
    zeros = torch.zeros(3, 2, 3)
    assert measured(quantized(), zeros).edges[0].cosine == 1.0
    bare = floating()
    silent = bare.replace(tensors={key: torch.zeros_like(t) for key, t in bare.tensors.items()})
    found = measured(quantized(), torch.randn(3, 2, 3), reference=silent).edges[-1]
    assert (found.snr_db, found.cosine) == (-math.inf, 0.0)


def test_an_infinite_ratio_is_strict_json() -> None:
    text = json.dumps(measured(quantized(), torch.zeros(1, 2, 3)).to_json(), allow_nan=False)
    assert json.loads(text)["edges"][0]["snr_db"] == "Infinity"


def test_no_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise: found no samples"):
        noise(quantized())


def test_a_reference_that_computes_something_else_is_refused() -> None:
    graph, x = quantized(), torch.randn(2, 2, 3)
    unfused = trace_module(nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), (x,))[0]
    with pytest.raises(GraphError, match=r"node '1' \(linear.*: computes something else in the reference"):
        measured(graph, x, reference=unfused)
    other = trace_module(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval(), (x,))[0]
    with pytest.raises(GraphError, match=r"node '[13]'"):
        measured(graph, x, reference=other)


def test_the_graph_stays_as_it_is() -> None:
    graph = quantized()
    records = {node.name: replace(node.record) for node in graph.nodes()}
    after, _ = noise.run(graph, NoiseConfig(), None, [torch.randn(2, 2, 3)])
    assert after is graph
    assert {node.name: node.record for node in graph.nodes()} == records
