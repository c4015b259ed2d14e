"""The export door: kinds of the normal form, identity of parameters, free axes, writes in place, clear refusals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mase.errors import ConfigError, GraphError
from mase.frontend.decode import DecodeStep
from mase.frontend.export import trace_export
from mase.frontend.module import trace_module
from mase.frontend.modules import Lift
from mase.graph import Graph
from mase.models.base import build
from mase.models.huggingface import optional
from tests.frontend.families.models import FAMILIES

EPS = torch.finfo(torch.float32).eps
X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12).reshape(2, 6) % 8


class Function(nn.Module):
    """A module that runs a function of its input and of itself; the function's parts hang on it by name."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor, y: Tensor | None = None) -> object:
        return self.function(self, x) if y is None else self.function(self, x, y)


def trace(function: Callable[..., object], *inputs: Tensor, **parts: nn.Module | Tensor) -> Graph:
    return trace_export(Function(function, **parts).eval(), inputs or (X,))[0]


def kinds(graph: Graph) -> list[str]:
    return [node.kind for node in graph.operators()]


def test_modules_become_typed_nodes_with_their_own_parameters() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3, bias=False)).eval()
    graph, report = trace_export(model, (X,))
    assert [(node.kind, node.path) for node in graph.operators()] == [
        ("linear", "0"),
        ("norm", "1"),
        ("activation", "2"),
        ("linear", "3"),
    ]
    assert report.lifted == ("0", "1", "2", "3")
    assert (report.refused, report.opaque, report.worst) == ({}, {}, 0.0)
    for name, parameter in model.named_parameters():
        assert graph.tensors[name].data_ptr() == parameter.data_ptr()


@pytest.mark.parametrize(
    ("function", "kind", "attrs"),
    [
        (lambda m, x: x + 2, "add", {"value": 2}),
        (lambda m, x: 1 - x, "add", {"value": 1, "reverse": True, "function": "sub"}),
        (lambda m, x: x / 3, "mul", {"value": 3, "function": "div"}),
        (lambda m, x: x * x, "mul", {}),
        (lambda m, x: x @ x.mT, "matmul", {}),
        (lambda m, x: x.softmax(-1), "softmax", {"axis": -1}),
        (
            lambda m, x: F.log_softmax(x, 1, dtype=torch.float64),
            "softmax",
            {"axis": 1, "log": True, "dtype": "float64"},
        ),
        (lambda m, x: F.gelu(x, approximate="tanh"), "activation", {"function": "gelu_tanh"}),
        (lambda m, x: F.relu(x).square(), "activation", {"function": "relu_squared"}),
        (lambda m, x: x * torch.sigmoid(1.702 * x), "activation", {"function": "gelu_quick"}),
        (lambda m, x: F.hardtanh(x, 0.0, 6.0), "activation", {"function": "relu6"}),
        (lambda m, x: x.clamp(min=-1), "activation", {"function": "clamp", "low": -1, "high": None}),
        (lambda m, x: F.leaky_relu(x, 0.2), "activation", {"function": "leaky_relu", "slope": 0.2}),
        (lambda m, x: F.elu(x, 0.5), "activation", {"function": "elu", "alpha": 0.5}),
        (lambda m, x: x.abs().pow(1.5), "activation", {"function": "power", "exponent": 1.5}),
        (lambda m, x: x.mean((1, 2)), "pool", {"function": "mean", "axes": [1, 2], "keepdim": False}),
        (lambda m, x: F.max_pool1d(x, 2), "pool", {"function": "max", "size": [2], "stride": [2]}),
        (lambda m, x: F.avg_pool1d(x, 3, 1), "pool", {"function": "average", "count_padding": True}),
        (lambda m, x: F.adaptive_avg_pool1d(x, 2), "pool", {"function": "adaptive_average", "size": [2]}),
        (lambda m, x: x.transpose(1, 2), "layout", {"function": "permute", "axes": [0, 2, 1]}),
        (lambda m, x: x.reshape(2, 24), "layout", {"function": "reshape", "shape": [24]}),
        (lambda m, x: x.reshape(8, 6), "layout", {"function": "view", "shape": [8, 6]}),
        (lambda m, x: x[:, 1:], "layout", {"function": "slice", "axis": 1, "start": 1, "end": None}),
        (lambda m, x: x[:, -1], "layout", {"function": "select", "axis": 1, "index": -1}),
        (lambda m, x: x.split(2, 1)[1], "layout", {"function": "slice", "axis": 1, "start": 2, "end": 4}),
        (lambda m, x: x.unbind(1)[2], "layout", {"function": "select", "axis": 1, "index": 2}),
        (lambda m, x: x[:, [2, -1]], "layout", {"function": "gather", "axis": 1, "indices": [2, 3]}),
        (lambda m, x: torch.stack((x, x), 1), "layout", {"function": "stack", "axis": 1}),
        (lambda m, x: F.pad(x, (1, 2), value=3.0), "layout", {"function": "pad", "padding": [1, 2], "value": 3.0}),
        (lambda m, x: x.roll(1, 2), "layout", {"function": "roll", "shifts": [1], "axes": [2]}),
        (lambda m, x: x.flip(1), "layout", {"function": "flip", "axes": [1]}),
        (lambda m, x: x.half(), "layout", {"function": "cast", "dtype": "float16"}),
        (lambda m, x: torch.where(torch.ones(4, 6) > 0, x, 0.0), "layout", {"function": "expand"}),
    ],
)
def test_a_function_becomes_its_kind(function: Callable[..., object], kind: str, attrs: Mapping[str, object]) -> None:
    graph = trace(function)
    node = graph.operators()[-1]
    assert node.kind == kind
    assert {name: node.record.attrs.get(name) for name in attrs} == attrs
    assert "opaque" not in kinds(graph)


def test_what_no_rule_knows_stays_executable_and_is_listed() -> None:
    graph, report = trace_export(Function(lambda m, x: x.cumsum(1).sort(-1).values).eval(), (X,))
    assert kinds(graph) == ["opaque", "opaque", "opaque"]
    assert next(iter(report.opaque.values())) == "aten.cumsum: has no typed kind"
    assert torch.equal(graph(X), X.cumsum(1).sort(-1).values)


def written_gelu(m: nn.Module, x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def test_gelu_as_gpt2_spells_it_is_one_activation() -> None:
    (node,) = trace(written_gelu).operators()
    assert node.record.attrs == {"function": "gelu_new"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_as_models_write_it_is_one_norm(dtype: torch.dtype, offset: float) -> None:
    def plain(m: nn.Module, x: Tensor) -> Tensor:
        wide = x.float()
        return m.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    def shifted(m: nn.Module, x: Tensor) -> Tensor:
        wide = x.float()
        y = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (y * (1.0 + m.weight.float())).type_as(x)

    graph = trace(shifted if offset else plain, X.to(dtype), weight=torch.randn(6).to(dtype))
    (node,) = graph.operators()
    assert (node.kind, node.record.attrs.get("offset", 0.0), node.record.attrs["eps"]) == ("norm", offset, 1e-6)


def test_a_norm_that_rounds_elsewhere_is_no_norm() -> None:
    def late(m: nn.Module, x: Tensor) -> Tensor:  # in 16 bits the weight stands before the cast
        wide = x.float()
        return (m.weight.float() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6))).to(x.dtype)

    assert "norm" not in kinds(trace(late, X.half(), weight=torch.randn(6).half()))


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_knows_its_heads(heads: int, shared: int, causal: bool) -> None:
    def attend(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, y, y, is_causal=causal, enable_gqa=heads != shared)

    (node,) = trace(attend, torch.randn(2, heads, 5, 8), torch.randn(2, shared, 5, 8)).operators()
    attrs = node.record.attrs
    assert (attrs["heads"], attrs["kv_heads"], attrs["head_size"], attrs["causal"]) == (heads, shared, 8, causal)
    assert node.record.ports == ("query", "key", "value")


def test_one_key_head_may_be_spread_by_broadcasting() -> None:
    shapes = (2, 4, 5, 8), (2, 1, 5, 8)
    graph = trace(lambda m, x, y: F.scaled_dot_product_attention(x, y, y), *(torch.randn(shape) for shape in shapes))
    (node,) = graph.operators()
    assert (node.record.attrs["kv_heads"], node.record.attrs["broadcast"]) == (1, True)


@pytest.mark.parametrize(("cap", "body"), [(None, False), (30.0, True)])
def test_attention_that_is_written_out_is_one_node(cap: float | None, body: bool, tmp_path: Path) -> None:
    def attend(m: nn.Module, x: Tensor) -> Tensor:
        key = x[:, :2, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8)
        scores = x @ key.transpose(2, 3) * 0.25
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).tril() == 0, torch.finfo(torch.float32).min)
        return F.softmax(scores + mask, -1, dtype=torch.float32).to(x.dtype) @ key

    graph = trace(attend, torch.randn(2, 4, 5, 8))
    node = next(node for node in graph.operators() if node.kind == "attention")
    assert node.record.ports == ("query", "key", "value", "mask")
    assert (node.record.attrs["heads"], node.record.attrs["kv_heads"], node.record.attrs["scale"]) == (4, 2, 0.25)
    assert node.record.attrs.get("cap") == cap
    assert (node.name in graph.bodies) is body  # the kind's own arithmetic does where nothing stands between
    assert node.record.attrs["masks_later"]
    graph.save(tmp_path)
    x = torch.randn(2, 4, 5, 8)
    assert torch.equal(Graph.load(tmp_path)(x), graph(x))


def test_a_mask_that_parameters_make_is_kept() -> None:
    def attend(m: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, attn_mask=m.bias)

    model = Function(attend, bias=torch.zeros(5, 5)).eval().requires_grad_(False)
    graph, _ = trace_export(model, (x := torch.randn(2, 4, 5, 8),))
    assert graph.operators()[-1].record.ports == ("query", "key", "value", "mask")
    with torch.no_grad():
        model.bias.copy_(torch.randn(5, 5))
    assert torch.equal(graph(x), model(x))


@pytest.mark.parametrize("form", ["half", "interleaved"])
def test_rotary_is_one_node_a_tensor(form: str) -> None:
    def turn(m: nn.Module, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))
        if form == "half":
            angle, swapped = torch.cat((angle, angle), -1), torch.cat((-x[..., 4:], x[..., :4]), -1)
        else:
            angle, swapped = angle.repeat_interleave(2, -1), torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return (x * angle.cos()) + (swapped * angle.sin())

    graph = trace(turn, torch.randn(2, 3, 5, 8))
    assert kinds(graph) == ["constant", "constant", "rotary"]
    assert graph.operators()[-1].record.attrs["form"] == form


# -- identity of parameters -------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 6), nn.Linear(6, 8, bias=False)
        self.head.weight = self.embed.weight
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor([0.5]))
        self.register_buffer("hidden", torch.tensor(2.0), persistent=False)
        self.note = torch.tensor([3.0])

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids) * self.scale + self.hidden * self.note)


def test_tied_weights_have_one_owner_and_buffers_survive() -> None:
    model = Tied().eval()
    graph, _ = trace_export(model, (IDS,))
    embedding, head = graph.node("embed").record, graph.node("head").record
    assert embedding.key("weight") == head.key("weight") == "embed.weight"
    assert "head.weight" not in graph.tensors
    assert embedding.attrs["role"] == "token"
    assert graph.tensors["scale"].data_ptr() == model.scale.data_ptr()
    assert "note" not in dict(model.named_buffers())  # nothing is registered on the user's module
    assert torch.equal(graph(IDS), model(IDS))


def test_a_stored_transpose_is_read_through_a_view() -> None:
    def product(m: nn.Module, x: Tensor) -> Tensor:
        return torch.addmm(m.bias, x.view(-1, 6), m.weight).view(2, 4, 3)

    model = Function(product, weight=torch.randn(6, 3), bias=torch.randn(3)).eval()
    graph, _ = trace_export(model, (X,))
    (node,) = graph.operators()
    assert (node.kind, node.record.attrs) == ("linear", {"transposed": True})
    assert graph.tensors["weight"].shape == (3, 6)
    assert graph.tensors["weight"].data_ptr() == model.weight.data_ptr()


def test_a_weight_that_multiplies_from_the_left_is_linear() -> None:
    (node,) = trace(lambda m, x: m.fc.weight @ x, fc=nn.Linear(4, 3)).operators()
    assert (node.kind, node.path, node.record.attrs) == ("linear", "fc", {"columns": True})


def test_a_matrix_that_is_read_in_two_ways_keeps_both() -> None:
    def product(m: nn.Module, x: Tensor) -> Tensor:
        return (x @ m.weight) @ m.weight.T + torch.linalg.vector_norm(m.weight)

    graph = trace(product, weight=torch.randn(6, 3))
    assert {node.kind for node in graph.operators()} >= {"linear", "opaque"}


def test_rows_of_a_packed_matrix_are_weights_of_their_own() -> None:
    model = nn.MultiheadAttention(6, 2, batch_first=True).eval().requires_grad_(False)
    graph, report = trace_export(model, (X, X[:, :3], X[:, :3]), output="0")
    weights = [n.record.key("weight") for n in graph.operators() if n.kind == "linear"]
    assert "in_proj_weight.0_6" in weights
    assert graph.tensors["in_proj_weight.0_6"].data_ptr() == model.in_proj_weight.data_ptr()
    assert report.refused == {}


def test_a_module_that_runs_twice_has_one_path_and_one_weight() -> None:
    graph = trace(lambda m, x: m.fc(m.fc(x)), fc=nn.Linear(6, 6))
    assert [node.path for node in graph.operators()] == ["fc", "fc"]
    assert {node.record.key("weight") for node in graph.operators()} == {"fc.weight"}


def test_weight_norm_is_computed_once_and_said() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
    graph, report = trace_export(nn.Sequential(layer).eval(), (X,))
    assert kinds(graph) == ["conv"]
    assert report.notes == ("0.weight: computed once from its parametrization",)


def test_a_module_that_the_result_does_not_need_is_named() -> None:
    _, report = trace_export(Function(lambda m, x: x + 1, fc=nn.Linear(6, 6)).eval(), (X,))
    assert report.refused == {"fc": "weight is not read on the way to this result"}


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_inputs_by_keyword_are_given_by_keyword() -> None:
    model = Function(lambda m, x, y: x - y).eval()
    graph, _ = trace_export(model, {"y": X, "x": X + 1})
    assert torch.equal(graph(x=X, y=2 * X), -X)


def test_shapes_are_guarded() -> None:
    graph = trace(lambda m, x: x.reshape(4, 2, 6))
    with pytest.raises(GraphError, match=r"input 'x': found \(3, 4, 6\); allowed is \(2, 4, 6\)"):
        graph(torch.zeros(3, 4, 6))


def test_the_batch_is_free_where_the_graph_holds_for_another_one() -> None:
    graph = trace(lambda m, x: m.fc(x).reshape(2, 4, 2, 3), fc=nn.Linear(6, 6))
    with pytest.raises(GraphError, match="allowed is"):
        graph(torch.zeros(3, 4, 6))
    graph = trace(lambda m, x: m.fc(x).reshape(x.shape[0], 4, 2, 3), fc=nn.Linear(6, 6))
    assert graph(torch.zeros(3, 4, 6)).shape == (3, 4, 2, 3)


def test_free_axes_are_free_and_the_others_are_not() -> None:
    model = Function(lambda m, x: m.fc(x).softmax(-1), fc=nn.Linear(6, 6)).eval()
    graph, _ = trace_export(model, (X[:1],), dynamic=("batch", "seq"))
    for shape in ((1, 9, 6), (5, 1, 6)):
        x = torch.randn(shape)
        assert torch.equal(graph(x), model(x))
    with pytest.raises(GraphError, match="allowed is \\(batch, seq, 6\\)"):
        graph(torch.zeros(2, 4, 7))


def test_a_mask_is_causal_for_every_length() -> None:
    def attend(m: nn.Module, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[2])
        return F.scaled_dot_product_attention(x, x, x, attn_mask=place[None, :] <= place[:, None])

    model = Function(lambda m, x: attend(m, x.unsqueeze(1)).squeeze(1)).eval()
    graph, _ = trace_export(model, (X,), dynamic="seq")
    node = next(node for node in graph.operators() if node.kind == "attention")
    assert node.record.attrs["causal"]
    assert node.record.ports == ("query", "key", "value")


def test_several_results_come_by_name() -> None:
    model = Function(lambda m, x: {"a": x + 1, "b": x * 2}).eval()
    graph, _ = trace_export(model, (X,), output=("b", "a"))
    assert torch.equal(graph(X), X * 2)
    assert torch.equal(graph.fields(X)["a"], X + 1)


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_a_decode_step_has_an_explicit_cache(name: str) -> None:
    model, _ = next(family for family in FAMILIES if family.name == name).build()
    step = DecodeStep(model, length=5, batch=2).eval()
    graph, _ = trace_export(step, step.inputs, output=step.fields)
    ids = torch.randint(64, (2, 7))
    with torch.no_grad():
        held = model(input_ids=ids[:, :5], use_cache=True).past_key_values.layers
        cache = {
            f"{role}_{i}": part for i, at in enumerate(held) for role, part in (("key", at.keys), ("value", at.values))
        }
        want = model(input_ids=ids[:, :6], use_cache=False).logits[:, -1]
    found = graph.fields(input_ids=ids[:, 5:6], **cache)
    assert torch.allclose(found["logits"][:, 0], want, atol=1e-5)  # one token and six round in another order
    assert found["key_0"].shape[2] == 6
    assert torch.equal(found["key_0"][:, :, :5], cache["key_0"])
    assert {node.kind for node in graph.operators()} >= {"attention", "linear", "norm"}


def test_what_the_captured_program_rounds_in_another_way_is_allowed_and_said() -> None:
    model, _ = next(family for family in FAMILIES if family.name == "Mistral").build()
    step = DecodeStep(model, length=7, batch=2).eval()
    _, report = trace_export(step, step.inputs, output=step.fields)
    # whether the two ways differ in these numbers is the processor's affair
    assert (report.worst, report.bound) == (0.0, 0.0) or 0.0 < report.worst <= report.bound == 8 * EPS


@pytest.mark.parametrize("scale", [1.0, 0.0])  # of the example: where it is 0, only the second input shows it
def test_a_sum_in_another_order_while_captured_is_allowed_whichever_sample_shows_it(scale: float) -> None:
    class TwoOrders(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 0.1) + 0.7 if torch.compiler.is_compiling() else x + (x * 0 + 0.1 + 0.7)

    x = torch.linspace(1, 2, 60).reshape(4, 15) * scale
    _, report = trace_export(TwoOrders().eval(), (x,))
    assert 0.0 < report.worst <= report.bound == 8 * EPS


def test_a_model_without_keys_and_values_has_no_decode_step() -> None:
    model, _ = next(family for family in FAMILIES if family.name == "BERT").build()
    with pytest.raises(GraphError, match="BertModel: keeps no keys and values"):
        DecodeStep(model, length=5)


# -- writes in place --------------------------------------------------------------------------------------------------


def test_writes_into_a_fresh_tensor_become_results() -> None:
    def write(m: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y += 1
        return F.relu(y, inplace=True).mul_(3)

    assert kinds(trace(write)) == ["mul", "add", "activation", "mul"]


def test_writes_through_views_are_kept() -> None:
    def write(m: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0] = 7
        row = y[:, 1]
        row.add_(5)
        return y + 1

    graph = trace(write)
    assert bool((graph(X)[:, 0] == 8).all())


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda m, x: x.add_(1), r"writes into the input"),
        (lambda m, x: x + m.count.add_(1), r"writes into the buffer 'count'"),
    ],
)
def test_writes_that_outlive_the_call_are_refused(function: Callable[..., object], text: str) -> None:
    model = Function(function).eval()
    model.register_buffer("count", torch.zeros(6))
    with pytest.raises(GraphError, match=rf"Function \(test_export\.py:\d+\): {text}"):
        trace_export(model, (X.clone(),))


# -- refusals ---------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_control_flow_on_data_names_module_and_line() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Branch())).eval()
    with pytest.raises(GraphError) as caught:
        trace_export(model, (X,))
    assert "module '1.0' (test_export.py:" in str(caught.value)
    assert ": if x.sum() > 0:)" in str(caught.value)
    assert "depends on the values of tensors" in str(caught.value)


def test_wrong_example_inputs_name_module_and_line() -> None:
    model = nn.Sequential(Function(lambda m, x: m.fc(x), fc=nn.Linear(5, 5))).eval()
    with pytest.raises(GraphError, match=r"module '0' \(test_export\.py:\d+.*\): fails on the example inputs: mat1"):
        trace_export(model, (X,))


def test_a_training_model_is_refused() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(6, 6)).eval()
    model[0].train()
    with pytest.raises(GraphError, match="module '0': is in training mode"):
        trace_export(model, (X,))


def test_an_axis_that_the_model_fixes_is_refused() -> None:
    with pytest.raises(GraphError, match=r"input 'x': the model fixes axis 1 \(seq\) at 4"):
        trace_export(Function(lambda m, x: x + torch.ones(4, 6)).eval(), (X,), dynamic="seq")


def test_an_unknown_axis_is_refused() -> None:
    with pytest.raises(ConfigError, match="dynamic 'width'"):
        trace_export(nn.Linear(6, 6).eval(), (X,), dynamic="width")


def test_randomness_in_the_forward_pass_is_refused() -> None:
    with pytest.raises(GraphError, match=r"\(test_export.py:\d+: .*\): .*draws random numbers"):
        trace_export(Function(lambda m, x: F.dropout(x, 0.5)).eval(), (X,))


def test_autocast_inside_the_model_is_refused() -> None:
    def half(m: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return m.fc(x)

    with pytest.raises(GraphError, match="wrap_with_autocast is not supported"):
        trace(half, fc=nn.Linear(6, 6))


def branch(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def pick(m: nn.Module, x: Tensor) -> Tensor:
    return x[x > 0]


@pytest.mark.parametrize(
    ("function", "text"), [(branch, "cond is not supported"), (pick, "a shape depends on the values")]
)
def test_what_depends_on_data_is_refused_with_its_line(function: Callable[..., object], text: str) -> None:
    with pytest.raises(GraphError, match=rf"module '0' \(test_export\.py:\d+\): {text}"):
        trace_export(nn.Sequential(Function(function)).eval(), (X,))


def test_a_block_of_experts_with_two_results_is_told() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(2, 8, 6)), nn.Parameter(torch.randn(2, 6, 4))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(6, 2, bias=False), Experts()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            gate, up = (x @ self.experts.gate_up_proj[0].T).chunk(2, -1)
            return (F.silu(gate) * up) @ self.experts.down_proj[0].T, self.gate(x).sum()

    _, report = trace_export(Function(lambda m, x: sum(m.block(x)), block=Block()).eval(), (X,))
    assert report.refused["block"] == "has 1 inputs and 2 results; one node has some inputs and one result"


class Gate(nn.Module):
    """A module that says what it is, in a way that the kind itself does not compute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x).sigmoid() * y

    def mase_outline(self) -> Lift:
        return Lift("mul", {}, {"weight": "fc.weight"})


def test_a_module_that_says_what_it_is_is_one_node_with_a_body() -> None:
    graph, _ = trace_export(Function(lambda m, x, y: m.gate(x, y) + 1, gate=Gate()).eval(), (X, X + 1))
    node, last = graph.operators()
    assert (node.kind, node.path, last.kind) == ("mul", "gate", "add")
    assert [inner.kind for inner in graph.bodies[node.name].operators()] == ["linear", "activation", "mul"]
    assert node.record.key("weight") == "gate.fc.weight"


@pytest.mark.parametrize("name", ["llama", "mixtral", "vit", "resnet", "mobilenet", "lenet", "ds_cnn"])
def test_both_doors_give_the_same_kinds(name: str) -> None:
    shape = {"vit": (2, 3, 32, 32), "resnet": (2, 3, 32, 32), "mobilenet": (2, 3, 32, 32), "ds_cnn": (2, 1, 49, 10)}
    x = IDS if name in ("llama", "mixtral") else torch.randn(shape.get(name, (2, 1, 28, 28)))
    model = build(name).eval().requires_grad_(False)
    doors = [trace_export(model, (x,))[0], trace_module(model, (x,))[0]]
    counts = [Counter(kind for kind in kinds(graph) if kind not in ("layout", "constant")) for graph in doors]
    assert counts[0] == counts[1]
    paths = [[n.path for n in graph.operators() if n.record.operands and n.kind != "constant"] for graph in doors]
    assert sorted(paths[0]) == sorted(paths[1])


# -- packages ---------------------------------------------------------------------------------------------------------


def test_a_broken_torchvision_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(metadata)
    code = """
from mase.frontend.export import trace_export
from mase.frontend.module import trace_module
from mase.frontend.modules import Lift
from tests.frontend.families.models import FAMILIES
model, inputs = next(family for family in FAMILIES if family.name == "ViT").build()
print(trace_export(model, inputs)[1])
"""
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert "0 opaque" in done.stdout, done.stderr[-2000:]


def test_the_installed_transformers_is_the_one_that_is_pinned() -> None:
    assert optional("transformers", "hf").__version__.split(".")[0] == "5"


@pytest.mark.parametrize("place", ["hidden_states.0", "hidden_states.1"])
def test_a_hidden_state_of_a_transformers_model_is_a_result(place: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs pip install mase-dse[hf]")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=32)).eval()
    ids = torch.arange(6).reshape(2, 3)
    graph, _ = trace_export(model, {"input_ids": ids, "output_hidden_states": True}, output=place)
    want = model(ids, output_hidden_states=True).hidden_states[int(place[-1])]
    assert torch.equal(graph(ids), want)
