from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.lowering import lower
from mase.ops.linear import Linear
from passes.base import PASSES
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from passes.shapes import ShapesReport, shapes


def traced(model: nn.Module, *x: Tensor) -> Graph:
    return trace_module(model.eval(), x)[0]


def mlp(bias: bool = True) -> Graph:
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 33, bias), nn.ReLU(), nn.Linear(33, 5, bias))
    return fuse(traced(model, torch.randn(2, 2, 12)))[0]


def quantized(weight: str, activation: str, bias: bool = True) -> Graph:
    config = QuantizeConfig(NodeFormats(weight=weight, activation=activation, accumulation="auto"))
    return quantize.run(mlp(bias), config, [torch.randn(8, 2, 12)])[0]


def counted(graph: Graph) -> ShapesReport:
    report: ShapesReport = shapes(graph)[1]
    return report


def test_it_is_registered() -> None:
    assert PASSES["shapes"] is shapes


def test_a_float_mlp_by_hand() -> None:
    found = counted(mlp())
    assert [(n.path, n.kind, n.shape, n.macs, n.parameters) for n in found.nodes if n.kind != "input"] == [
        ("0", "layout", (24,), 0, 0),
        ("1", "linear", (33,), 24 * 33, 24 * 33 + 33),
        ("3", "linear", (5,), 33 * 5, 33 * 5 + 5),
    ]
    assert (found.macs, found.parameters) == (24 * 33 + 33 * 5, 24 * 33 + 33 + 33 * 5 + 5)
    assert (found.bits_per_parameter, found.uncounted) == (32.0, ())
    assert {n.path: n.activation_bits for n in found.nodes}["1"] == 33 * 32


def test_rows_multiply_the_products_and_not_the_parameters() -> None:
    found = counted(traced(nn.Sequential(nn.Linear(6, 4)), torch.randn(2, 7, 6)))
    assert (found.macs, found.parameters) == (7 * 6 * 4, 28)


def test_halves_count_sixteen_bits() -> None:
    found = counted(traced(nn.Sequential(nn.Linear(6, 4)).bfloat16(), torch.randn(2, 6).bfloat16()))
    assert (found.bits_per_parameter, found.nodes[-1].activation_bits) == (16.0, 64.0)


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        ("fixed6.4", 33 * 24 * 6),
        ("mxint4b8e8", 33 * 24 * 4 + 33 * 3 * 8),  # three blocks a row of 24
    ],
)
def test_stored_bits_count_shared_fields(weight: str, bits: int) -> None:
    graph = quantized(weight, "fixed8.4", bias=False)
    node = {n.path: n for n in counted(graph).nodes}["1"]
    assert node.weight_bits == bits
    assert (node.format, node.activation_bits) == ("fixed8.4", 33 * 8)


def test_scales_of_channels_count_along_the_channels() -> None:
    graph = quantized("int8c", "fixed8.4", bias=False)
    fmt = graph.node("1").record.operands["weight"].format
    assert fmt is not None
    node = {n.path: n for n in counted(graph).nodes}["1"]
    scale = sum(bits for _, bits in fmt.layout().shared)
    assert scale > 0
    assert node.weight_bits == 33 * 24 * 8 + 33 * scale


def test_activation_bits_count_blocks() -> None:
    graph = quantized("fixed8.6", "mxint6b8e4")
    node = {n.path: n for n in counted(graph).nodes}["1"]
    assert node.activation_bits == 33 * 6 + 5 * 4  # five blocks of 33, the last one of 1


@pytest.mark.parametrize("formats", [("fixed8.6", "fixed8.4"), ("mxint4b8e4", "mxint6b8e3")])
def test_a_bias_counts_the_bits_of_its_memory(formats: tuple[str, str]) -> None:
    graph = quantized(*formats)
    op = lower(graph.node("1"))
    assert isinstance(op, Linear)
    assert op.bias_exp is None
    with_bias = {n.path: n for n in counted(graph).nodes}["1"].weight_bits
    without = {n.path: n for n in counted(quantized(*formats, bias=False)).nodes}["1"].weight_bits
    assert with_bias - without == 33 * op.bias_width


def test_a_tensor_that_two_nodes_share_counts_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(self.a(x))
            return y

    found = counted(traced(Tied(), torch.randn(2, 4)))
    assert (found.parameters, found.weight_bits, found.macs) == (16, 16 * 32, 32)


def test_an_opaque_node_counts_parameters_and_is_named() -> None:
    found = counted(traced(nn.Sequential(nn.RNNCell(4, 3), nn.Flatten()), torch.randn(2, 4)))
    assert (found.uncounted, found.parameters, found.macs) == (("0",), 3 * 4 + 3 * 3 + 3 + 3, 0)
    assert {node.path: node.macs for node in found.nodes}["0"] is None
    assert found.weight_bits == found.parameters * 32


def test_the_report_is_json_and_the_graph_stays() -> None:
    graph = mlp()
    after, report = shapes(graph)
    assert after is graph
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["macs"] == report.macs
    assert data["nodes"][2]["macs"] == 24 * 33


def test_a_graph_without_parameters_has_no_average() -> None:
    assert counted(traced(nn.Sequential(nn.ReLU()), torch.randn(2, 3))).bits_per_parameter == 0.0
