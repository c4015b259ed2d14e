from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mase.formats import parse
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models.base import build
from passes.base import PASSES
from passes.parameters import ParametersReport, parameters
from tests.passes.graphs import Sketch, single


def counted(graph: Graph) -> ParametersReport:
    report: ParametersReport = parameters(graph)[1]
    return report


def tied(other: torch.Tensor) -> Graph:
    """Return an embedding and a head of 5 x 4 elements; ``other`` is the head's weight."""
    table = torch.ones(5, 4) if other.numel() == 0 else other
    sketch = Sketch()
    x = sketch.input("ids", (2, 3), "int64")
    x = sketch.add("embedding", "embed", (2, 3, 4), x, operands={"weight": table})
    head = sketch.add("linear", "head", (2, 3, 5), x, operands={"weight": other if other.numel() else torch.ones(5, 4)})
    return sketch.graph(head)


def test_elements_and_bits_by_role() -> None:
    found = counted(single("linear", [(2, 5)], (2, 3), operands={"weight": (3, 5), "bias": (3,)}))
    (node,) = found.nodes
    assert [(t.key, t.role, t.elements, t.bits) for t in node.tensors] == [
        ("it.weight", "weight", 15, 15 * 32),
        ("it.bias", "bias", 3, 3 * 32),
    ]
    assert (found.parameters, found.bits, found.bytes, found.bits_per_parameter) == (18, 18 * 32, 18 * 4, 32.0)


def test_a_tied_weight_counts_once_and_names_its_owner() -> None:
    found = counted(tied(torch.ones(5, 4)))
    assert (found.parameters, found.bits) == (20, 20 * 32)
    assert found.tied == {"head.weight": "embed.weight"}
    assert [node.parameters for node in found.nodes] == [20, 20]


def test_equal_weights_in_two_places_count_twice() -> None:
    found = counted(tied(torch.empty(0)))
    assert (found.parameters, found.tied) == (40, {})


def test_a_transposed_view_is_the_same_tensor() -> None:
    weight = torch.ones(5, 4)
    sketch = Sketch()
    x = sketch.input("x", (2, 4))
    x = sketch.add("linear", "up", (2, 5), x, operands={"weight": weight})
    found = counted(sketch.graph(sketch.add("linear", "down", (2, 4), x, operands={"weight": weight.t()})))
    assert (found.parameters, found.tied) == (20, {"down.weight": "up.weight"})


def test_a_tied_weight_in_two_formats_is_stored_twice() -> None:
    graph = tied(torch.ones(5, 4))
    record = graph.node("head").record
    kind = replace(record.operands["weight"], format=parse("fixed8.4"))
    found = counted(graph.replace({"head": replace(record, operands={"weight": kind})}))
    assert (found.parameters, found.bits) == (20, 20 * 32 + 20 * 8)


def test_running_statistics_and_buffers_are_constants() -> None:
    operands = {"mean": (3,), "variance": (3,), "weight": (3,), "bias": (3,)}
    found = counted(single("norm", [(2, 3, 4)], (2, 3, 4), function="batch", eps=0.0, operands=operands))
    assert (found.parameters, found.constants, found.constant_bits, found.bytes) == (6, 6, 6 * 32, 12 * 4)
    sketch = Sketch()
    table = sketch.add("constant", "mask", (3,), operands={"value": torch.ones(3, dtype=torch.bool)})
    x = sketch.add("mul", "y", (2, 3), sketch.input("x", (2, 3)), table)
    found = counted(sketch.graph(x))
    assert (found.parameters, found.constants, found.constant_bits) == (0, 3, 3 * 8)


def test_a_constant_that_says_so_is_a_parameter() -> None:
    sketch = Sketch()
    scale = sketch.add("constant", "scale", (3,), attrs={"parameter": True}, operands={"value": (3,)})
    found = counted(sketch.graph(sketch.add("mul", "y", (2, 3), sketch.input("x", (2, 3)), scale)))
    assert (found.parameters, found.constants) == (3, 0)
    graph = single("add", [(2, 3)], (2, 3), parameter=False, operands={"other": (3,)})
    assert (counted(graph).parameters, counted(graph).constants) == (0, 3)


def test_a_body_shares_the_tensors_of_its_node() -> None:
    weight, extra = torch.ones(4, 6), torch.ones(4, 4)
    inside = Sketch()
    a = inside.add("linear", "first", (2, 4), inside.input("a", (2, 6)), operands={"weight": weight})
    body = inside.graph(inside.add("linear", "second", (2, 4), a, operands={"weight": extra}))
    sketch = Sketch()
    x = sketch.add("moe", "mix", (2, 4), sketch.input("x", (2, 6)), operands={"router": weight}, body=body)
    graph = sketch.graph(x)
    graph = Graph(graph.module, {**graph.tensors, **body.tensors}, bodies={"mix": body})
    found = counted(graph)
    assert [t.key for t in found.nodes[0].tensors] == ["mix.router", "second.weight"]
    assert (found.parameters, found.nodes[0].parameters) == (24 + 16, 24 + 16)


def test_a_graph_without_parameters_has_no_average() -> None:
    found = counted(single("activation", [(2, 3)], (2, 3), function="relu"))
    assert (found.nodes, found.bytes, found.bits_per_parameter) == ((), 0, 0.0)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 16), (torch.bfloat16, 16), (torch.float64, 64)])
def test_a_dtype_says_the_bits(dtype: torch.dtype, bits: int) -> None:
    found = counted(single("linear", [(2, 5)], (2, 3), operands={"weight": torch.ones(3, 5, dtype=dtype)}))
    assert found.bits_per_parameter == bits


@pytest.mark.parametrize(("name", "x"), [("resnet", torch.zeros(2, 3, 32, 32)), ("vit", torch.zeros(2, 3, 32, 32))])
def test_a_model_has_as_many_as_pytorch_counts(name: str, x: torch.Tensor) -> None:
    model = build(name, {}).eval()
    assert counted(trace_module(model, (x,))[0]).parameters == sum(p.numel() for p in model.parameters())


def test_tied_embeddings_of_a_model_count_once() -> None:
    model = build("llama", {"tied": True}).eval()
    found = counted(trace_module(model, (torch.zeros(1, 8, dtype=torch.int64),))[0])
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.tied == {"head.weight": "embedding.weight"}


def test_it_is_registered_and_the_report_is_json() -> None:
    assert PASSES["parameters"] is parameters
    graph = tied(torch.ones(5, 4))
    after, report = parameters(graph)
    assert after is graph
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (data["parameters"], data["bytes"], data["tied"]) == (20, 80, {"head.weight": "embed.weight"})
