"""Exact mode runs integers where all operands have formats, and float elsewhere; training mode has gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mase.errors import FormatError, GraphError
from mase.flow import emulate
from mase.formats import parse
from mase.frontend.module import trace_module
from mase.graph import Graph, new_type
from mase.interpreter import is_exact, run, train
from mase.lowering import Lowering, lower
from mase.models.base import MODELS
from mase.netlist import build
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, quantize

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Two layers on integers with a function in between that has none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).softmax(-1))


def quantized(model: nn.Module, config: QuantizeConfig, x: Tensor = X) -> Graph:
    return quantize.run(fuse(trace_module(model.eval(), (x,))[0])[0], config, [x])[0]


def mlp(config: QuantizeConfig) -> Graph:
    torch.manual_seed(0)
    return quantized(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), config)


DEFAULT = QuantizeConfig(NodeFormats("int4", "fixed8.4"))


def test_every_edge_is_kept_on_request() -> None:
    graph = mlp(DEFAULT)
    values = run(graph, (X,), keep=True)
    assert list(values.codes) == ["input_1", "_0", "_2"]
    assert values.reals == {}
    assert torch.equal(values.real("_2"), graph(X))


def test_edges_that_nobody_reads_again_are_dropped() -> None:
    values = run(mlp(DEFAULT), (X,))
    assert list(values.codes) == ["_2"]


def test_the_chain_of_references_is_what_the_graph_computes() -> None:
    graph = mlp(DEFAULT)
    values = run(graph, (X,), keep=True)
    chain = build(graph).codes(values.codes["input_1"])
    assert all(torch.equal(chain[name].mantissa, code.mantissa) for name, code in values.codes.items())


def test_a_node_is_exact_when_all_it_touches_has_formats_and_it_has_hardware() -> None:
    graph = quantized(Mixed(), DEFAULT)
    assert {node.path: is_exact(node) for node in graph.operators()} == {
        "first": True,
        "softmax": False,
        "second": True,
    }
    node = graph.node("softmax")
    free = replace(node.record, output=new_type(node.record.output, None))
    assert not is_exact(graph.replace({"softmax": free}).node("second"))


def test_a_node_without_hardware_runs_in_float_on_decoded_values() -> None:
    graph = quantized(Mixed(), DEFAULT)
    values = run(graph, (X,), keep=True)
    expected = values.real("first").float().softmax(-1)  # in the traced dtype
    assert torch.equal(values.codes["softmax"].mantissa, parse("fixed8.4").encode(expected).mantissa)


def test_a_node_between_formats_takes_float_and_gives_codes() -> None:
    graph = quantized(Mixed(), DEFAULT)
    node = graph.node("softmax")
    graph = graph.replace({"softmax": replace(node.record, output=new_type(node.record.output, None))})
    values = run(graph, (X,), keep=True)
    weight = parse("int4").quantize(graph.tensors["second.weight"], graph.params("second.weight"))
    y = torch.nn.functional.linear(values.reals["softmax"], weight, graph.tensors["second.bias"])
    assert torch.equal(values.codes["second"].mantissa, parse("fixed8.4").encode(y).mantissa)


def test_every_value_can_be_observed_while_it_is_there() -> None:
    graph, seen = quantized(Mixed(), DEFAULT), dict[str, Tensor]()
    run(graph, (X,), observe=lambda node, value: seen.update({node.path: value}))
    values = run(graph, (X,), keep=True)
    assert list(seen) == ["x", "first", "softmax", "second"]
    assert all(torch.equal(seen[node.path], values.real(node.name)) for node in graph.nodes() if node.kind != "output")


def test_a_float_graph_computes_what_the_model_computes() -> None:
    model = Mixed().eval()
    graph, _ = trace_module(model, (X,))
    assert torch.equal(graph(X), model(X))


def test_operators_are_built_once_where_a_lowering_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr("mase.lowering.lower", lambda node: built.append(node.name) or lower(node))
    graph, lowering = mlp(DEFAULT), Lowering()
    run(graph, (X,), lowering=lowering)
    run(graph, (X,), lowering=lowering)
    assert built == ["_0", "_2"]


def test_batches_do_not_matter() -> None:
    graph = mlp(QuantizeConfig(NodeFormats("mxint4b2e3", "mxint5b2e4")))
    assert torch.equal(graph(X), torch.cat([graph(X[i : i + 1]) for i in range(len(X))]))


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((), "found 0 tensors; the graph takes 1"),
        ((X, X), "found 2 tensors; the graph takes 1"),
        ((torch.randn(2, 4),), r"input 'input': found \(2, 4\); allowed is \(batch, 3\)"),
        ((torch.randn(3),), r"input 'input': found \(3,\)"),
    ],
)
def test_wrong_inputs_are_refused(inputs: tuple[Tensor, ...], why: str) -> None:
    for mode in (run, train):
        with pytest.raises(GraphError, match=why):
            mode(mlp(DEFAULT), inputs)


class Plus(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


@pytest.mark.parametrize("found", [None, 3, [1.0], X.numpy(), (X,)])
def test_what_is_no_tensor_is_named(found: Any) -> None:
    graph = mlp(DEFAULT)
    for call in (graph, graph.fields):
        with pytest.raises(GraphError, match=f"input 'input': found {type(found).__name__}; allowed is a tensor"):
            call(found)


@pytest.mark.parametrize("found", [None, 3, [1.0], X.numpy(), torch.tensor(1.0), (X, X)])
def test_emulation_names_what_is_no_batch(found: Any) -> None:
    with pytest.raises(GraphError, match="input"):
        emulate(mlp(DEFAULT), found)


def test_emulation_takes_what_calibration_takes() -> None:
    graph, x, y = mlp(DEFAULT), torch.randn(5, 3), torch.randn(5, 3)
    assert all(torch.equal(emulate(graph, given), graph(x)) for given in (x, (x,), [x], {"input": x}))
    assert torch.equal(emulate(graph, x, chunk=2), graph(x))
    two, _ = trace_module(Plus().eval(), (x, y))
    assert torch.equal(emulate(two, {"y": y, "x": x}, chunk=2), x + y)
    scalar, _ = trace_module(Total().eval(), x)
    assert torch.equal(emulate(scalar, x), x.sum())


@pytest.mark.parametrize("ids", [torch.tensor([[9]]), torch.tensor([[-1]]), torch.tensor([[True]])])
def test_values_that_a_node_refuses_are_told_with_its_path(ids: Tensor) -> None:
    graph = trace_module(nn.Sequential(nn.Embedding(9, 2)).eval(), torch.tensor([[3]]))[0]
    with pytest.raises(GraphError, match=r"node '0' \(embedding\): cannot run on these values"):
        graph(ids)


def test_nan_is_refused_at_the_input() -> None:
    with pytest.raises(FormatError, match="NaN"):
        mlp(DEFAULT)(torch.full((1, 3), torch.nan))


def test_infinity_saturates_at_the_input() -> None:
    graph = mlp(DEFAULT)
    assert torch.equal(graph(torch.full((1, 3), torch.inf)), graph(torch.full((1, 3), 1e9)))


def test_training_rounds_forward_and_passes_gradients_back() -> None:
    graph = mlp(DEFAULT)
    weight = graph.tensors["0.weight"] = graph.tensors["0.weight"].clone().requires_grad_()
    y = train(graph, (X,))
    assert torch.equal(y, parse("fixed8.4").quantize(y.detach()))
    y.sum().backward()  # type: ignore[no-untyped-call]  # torch has no types here
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0


def test_training_and_exact_mode_agree_where_float_is_exact() -> None:
    graph = mlp(QuantizeConfig(NodeFormats("fixed4.3", "fixed8.4", bias="fixed8.4")))
    assert torch.equal(train(graph, (X,)).double(), graph(X))


def test_a_formatted_edge_that_meets_an_unformatted_weight_is_not_exact() -> None:
    graph = mlp(DEFAULT)
    node = graph.node("0")
    operands = {**node.record.operands, "weight": new_type(node.record.operands["weight"], None)}
    assert not is_exact(graph.replace({node.name: replace(node.record, operands=operands)}).node("0"))


def test_training_reaches_the_weights_of_an_outlined_module() -> None:
    torch.manual_seed(0)
    sizes = {"vocab": 8, "dim": 8, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 8, "experts": 2, "length": 4}
    ids = torch.arange(4)[None]
    graph = trace_module(MODELS["mixtral"](**sizes).eval(), ids)[0]
    assert graph.bodies
    key = "blocks.0.feed.experts.down"
    weight = graph.tensors[key].detach().clone().requires_grad_()
    y = train(graph.on({**graph.tensors, key: weight}), (ids,))
    assert torch.equal(y, graph(ids))
    assert bool(torch.autograd.grad(y.square().sum(), weight)[0].any())
