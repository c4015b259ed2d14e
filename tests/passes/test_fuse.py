"""A ReLU joins the linear layer before it where nobody else reads that layer, and the layer itself does not round."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mase.frontend.module import trace_module
from mase.graph import Graph, new_type
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, quantize

X = torch.randn(4, 3)


def chain(*layers: nn.Module) -> Graph:
    return trace_module(nn.Sequential(*layers).eval(), (X,))[0]


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.operators()]


def test_a_pair_becomes_one_node_that_computes_the_same() -> None:
    graph = chain(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fused, report = fuse(graph)
    assert kinds(fused) == ["linear", "linear"]
    assert fused.node("0").record.attrs["activation"] == "relu"
    assert report.fused == (("0", "1"),)
    assert torch.equal(fused(X), graph(X))


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    graph = chain(nn.Linear(3, 4), nn.ReLU())
    fused, _ = fuse(graph)
    assert kinds(graph) == ["linear", "activation"]
    assert "activation" not in graph.node("0").record.attrs
    assert fused.tensors["0.weight"].data_ptr() == graph.tensors["0.weight"].data_ptr()


def test_only_the_first_of_two_relus_joins() -> None:
    assert kinds(fuse(chain(nn.Linear(3, 4), nn.ReLU(), nn.ReLU()))[0]) == ["linear", "activation"]


def test_a_relu_after_something_else_stays() -> None:
    assert kinds(fuse(chain(nn.ReLU(), nn.Linear(3, 4)))[0]) == ["activation", "linear"]
    assert kinds(fuse(chain(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.ReLU()))[0]) == [
        "linear",
        "layout",
        "activation",
    ]


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return self.relu(y) + y


def test_a_layer_with_another_reader_keeps_its_sign() -> None:
    graph, _ = trace_module(Both().eval(), (X,))
    fused, report = fuse(graph)
    assert report.fused == ()
    assert torch.equal(fused(X), graph(X))


def test_formats_that_stand_between_keep_the_nodes_apart() -> None:
    graph = chain(nn.Linear(3, 4), nn.ReLU())
    quantized, _ = quantize.run(graph, QuantizeConfig(NodeFormats("int4", "fixed8.4")), [X])
    assert fuse(quantized)[1].fused == ()


def test_a_rounding_after_both_alone_goes_with_the_pair() -> None:
    quantized, _ = quantize.run(chain(nn.Linear(3, 4), nn.ReLU()), QuantizeConfig(NodeFormats("int4", "int8")), [X])
    linear = quantized.node("0")
    free = replace(linear.record, output=new_type(linear.record.output, None))
    graph = Graph(quantized.replace({linear.name: free}).module, quantized.tensors, quantized.quant)
    del graph.quant[linear.name]  # as quantisers of a file leave it
    fused, report = fuse(graph)
    assert report.fused == (("0", "1"),) and kinds(fused) == ["linear"]
    assert str(fused.node("0").record.output.format) == "int8"
    assert fused.node("0").params() is quantized.node("1").params()
    torch.testing.assert_close(fused(X), graph(X))


def test_a_default_configuration_is_enough() -> None:
    assert fuse(chain(nn.Linear(3, 4), nn.ReLU()), None)[1].fused == (("0", "1"),)


def test_another_activation_stays_and_the_graph_computes_the_same() -> None:
    for layer in (nn.SiLU(), nn.GELU(), nn.ReLU6(), nn.Sigmoid(), nn.LeakyReLU()):
        graph = chain(nn.Linear(3, 4), layer, nn.Linear(4, 2))
        fused, report = fuse(graph)
        assert report.fused == ()
        assert torch.equal(fused(X), graph(X))
