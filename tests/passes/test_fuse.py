"""A ReLU joins the linear layer before it where nobody else reads that layer, and the layer itself does not round."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mase.errors import UnsupportedOp
from mase.frontend.module import trace_module
from mase.graph import Graph, new_type
from mase.ops.linear import Linear
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, quantize

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def chain(*layers: nn.Module) -> Graph:
    model = nn.Sequential(*layers).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.5
    return trace_module(model, (X,))[0]


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


def normalised(*layers: nn.Module) -> nn.Module:
    """Return layers whose batch norms have statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in [*layer.parameters(), *layer.buffers()]:
                if tensor.is_floating_point():
                    tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 5, 5)),
        ((nn.Conv1d(4, 4, 3, groups=2), nn.BatchNorm1d(4, eps=1e-2)), (2, 4, 6)),
        ((nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU()), (5, 3)),
        ((nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2)), (5, 3)),
    ],
    ids=["conv", "groups", "linear", "two"],
)
def test_batch_norm_joins_the_layer_before_it(layers: tuple[nn.Module, ...], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = normalised(*layers), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    graph = trace_module(model, (x,))[0]
    before = {key: tensor.clone() for key, tensor in graph.tensors.items()}
    out, report = fuse(graph)
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert report.folded == tuple((str(i - 1), str(i)) for i in norms)
    assert not [node for node in out.operators() if node.kind == "norm"]
    torch.testing.assert_close(out(x), model(x), rtol=1e-5, atol=1e-6)  # float32 in another order
    assert all(torch.equal(graph.tensors[key], tensor) for key, tensor in before.items())
    assert len(list(graph.operators())) == len(layers)


@pytest.mark.parametrize(("weight", "scale", "key"), [(1e30, 1e30, "0.weight"), (1.0, 1e38, "0.bias")])
def test_a_fold_that_leaves_the_finite_numbers_is_refused(weight: float, scale: float, key: str) -> None:
    layer, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(100.0)
        norm.weight.fill_(scale)
    graph = trace_module(nn.Sequential(layer, norm).eval(), (X,))[0]
    with pytest.raises(UnsupportedOp, match=rf"node '1' \(norm\).*folded into '0' it makes {key} infinite or NaN"):
        fuse(graph)


class Shared(nn.Module):
    """One convolution before two norms."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3), twice

    def forward(self, x: Tensor) -> Tensor:
        if self.twice:
            return self.norm(self.conv(x)) + self.conv(x * 2)
        y = self.conv(x)
        return self.norm(y) + y


@pytest.mark.parametrize("twice", [False, True])
def test_a_layer_that_others_read_keeps_its_weights(twice: bool) -> None:
    x = torch.randn(2, 3, 4)
    out, report = fuse(trace_module(Shared(twice).eval(), (x,))[0])
    assert report.folded == ()
    assert "norm" in {node.kind for node in out.operators()}


def test_batch_norm_along_another_axis_than_the_features_stays() -> None:
    x = torch.randn(2, 3, 4)  # normalises positions
    assert fuse(trace_module(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(3)).eval(), (x,))[0])[1].folded == ()


def test_only_relu_is_fused() -> None:
    assert fuse(chain(nn.Linear(3, 2), nn.GELU()))[1].fused == ()


def test_a_product_from_the_left_keeps_its_relu() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()).eval()
    graph = trace_module(model, (torch.ones(4, 4),))[0]
    node = graph.node("0")
    graph = graph.replace({node.name: replace(node.record, attrs={"columns": True})})
    assert fuse(graph)[1].fused == ()


def test_a_convolution_without_a_batch_has_its_channels_elsewhere() -> None:
    model, x = normalised(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)), torch.randn(3, 4)  # the norm works along the length
    graph = trace_module(model, (x,))[0]
    out, report = fuse(graph)
    assert report.folded == ()
    assert torch.equal(out(x), model(x))


def test_what_may_join_is_the_operators_word(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(nn.Linear(3, 4), nn.Sigmoid())
    assert fuse(graph)[1].fused == ()
    monkeypatch.setattr(Linear, "epilogues", classmethod(lambda cls, record: frozenset({"sigmoid"})))
    out, report = fuse(graph)
    assert (report.fused, out.node("0").record.attrs["activation"]) == ((("0", "1"),), "sigmoid")
