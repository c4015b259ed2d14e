"""Results in signs, powers of two and blocks of every rule are what ``encode`` gives of the exact ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mase.formats import parse
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.interpreter import run
from mase.netlist import build
from mase.testing import same_codes
from passes.map import MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize

RESULTS = (
    *("binary", "binaryu", "ternary", "ternaryu", "log3b1", "log5", "bl4b2s3", "mxfp4b2_xrceil", "mxfp8e4m3b4_xeven"),
    *("nvfp4b4", "nvfp4l1b2"),
)
X = torch.randn(12, 4, 5, 5, generator=torch.Generator().manual_seed(5))
DATA = (X, torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(6)))
FINE = "fixed9.5"


class Every(nn.Module):
    """One operator of each kind, each beside the input in a format that keeps it exact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.depthwise = nn.Conv2d(4, 3, 3), nn.Conv2d(4, 4, 3, groups=4)
        self.linear, self.norm, self.layer = nn.Linear(5, 4), nn.BatchNorm2d(4), nn.LayerNorm(5)
        self.mean, self.most = nn.AvgPool2d(2), nn.MaxPool2d(2)
        self.norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]  # it tracks them

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        return (
            self.conv(x),
            self.depthwise(x),
            self.linear(z),
            self.norm(torch.relu(x)),
            self.layer(z),
            self.mean(x),
            torch.amax(x, (2, 3)),
            torch.tanh(x),
            x + x.flip(1),
            x * x.flip(1),
            torch.relu(x),
        )


def quantized(text: str, weight: str = "fixed6.5", inputs: str = FINE) -> Graph:
    graph, _ = trace_module(Every().eval(), DATA, output=[str(i) for i in range(11)])
    overrides = {}
    for node in graph.operators():
        fine = node.kind == "layout" or any(user.kind not in ("output", "layout") for user in node.users)
        overrides[node.path] = NodeFormats(weight, output=FINE if fine else text)
    return quantize.run(graph, QuantizeConfig(overrides=overrides, inputs=inputs), [DATA])[0]


@pytest.mark.parametrize("text", RESULTS)
@pytest.mark.parametrize("numbers", [("fixed6.5", FINE), ("int5", "int8")])
def test_every_operator_gives_such_results(text: str, numbers: tuple[str, str]) -> None:
    graph, _ = map_graph.run(quantized(text, *numbers), MapConfig())
    netlist = build(graph)
    values = run(graph, DATA, keep=True)
    fed = [values.codes[entry] for entry in netlist.entries]
    codes, scalar = netlist.codes(*fed), netlist.codes(*fed, oracle=True)
    names = [source.name for source in graph.output.inputs]
    assert len(names) == 11
    assert all(graph.node(name).record.output.format == parse(text) for name in names)
    for name in names:
        assert same_codes(codes[name], values.codes[name])
        assert same_codes(codes[name], scalar[name]), name


@pytest.mark.parametrize("text", RESULTS)
def test_results_without_multipliers_are_those_of_encode(text: str) -> None:
    """Sums, products and means of four are exact in float64, so ``encode`` rounds the same numbers."""
    graph = quantized(text)
    values = run(graph, DATA, keep=True)
    fmt = parse(text)
    x = values.real(graph.inputs[0].name).double()
    weight, bias = (graph.tensors[f"conv.{name}"].double() for name in ("weight", "bias"))
    conv = graph.node("conv")
    w_format = conv.record.operands["weight"].format
    assert w_format is not None
    rounded = w_format.quantize(weight, conv.params("weight"))
    unit = 2.0**-10  # of a product
    real = {
        "conv": nn.functional.conv2d(x, rounded, (bias / unit).round() * unit),
        "mean": nn.functional.avg_pool2d(x, 2),
        "add": x + x.flip(1),
        "mul": x * x.flip(1),
        "relu": x.relu(),
    }
    kinds = {source.name: source for source in graph.output.inputs}
    for name, y in real.items():
        node = next(node for found, node in kinds.items() if found.split("_")[0] == name)
        grid = fmt.grid(node.params(), "here")
        if name == "add" and grid.scaled and grid.scales is None:
            continue  # one multiplier of 16 bits for each operand
        expected, found = fmt.encode(y, node.params()).on_stream(), values.codes[node.name]
        real_of = [fmt.decode(code, node.params()) for code in (expected, found)]
        assert torch.equal(*real_of), name  # a zero has no sign on chip
        assert (expected.exponent is None) == (found.exponent is None)
        assert expected.exponent is None or torch.equal(expected.exponent, found.exponent)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["binary", "ternary"])
def test_a_real_scale_of_the_input_is_exact_before_signs(text: str) -> None:
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    graph, _ = trace_module(nn.ReLU().eval(), (x,))
    done = quantize.run(graph, QuantizeConfig(NodeFormats(output=text), inputs="int7"), [x])[0]
    values = run(done, (x,), keep=True)
    node, fmt = done.operators()[0], parse(text)
    real = values.real(done.inputs[0].name).double().relu()
    assert same_codes(fmt.encode(real, node.params()), values.codes[node.name])
