from __future__ import annotations

import json
from dataclasses import replace

import torch

from mase.formats import parse
from mase.graph import Graph, TensorType
from passes.base import PASSES
from passes.liveness import LivenessReport, liveness
from tests.passes.graphs import Sketch, single

RELU = {"function": "relu"}


def followed(graph: Graph) -> LivenessReport:
    report: LivenessReport = liveness(graph)[1]
    return report


def live(graph: Graph) -> dict[str, int]:
    return {node.path: node.live for node in followed(graph).nodes}


def residual(*, view: bool = False) -> Graph:
    """Return y = x + f(g(x)) on 10 elements a sample, 40 bytes; g gives 20 elements."""
    sketch = Sketch()
    x = sketch.input("x", (2, 10))
    wide = sketch.add("linear", "g", (2, 20), x, operands={"weight": (20, 10)})
    wide = sketch.add("layout", "look", (2, 4, 5), wide, attrs={"shape": [4, 5]}) if view else wide
    back = sketch.add("linear", "f", (2, 10), wide, operands={"weight": (10, 20)})
    return sketch.graph(sketch.add("add", "sum", (2, 10), x, back))


def test_a_residual_is_held_until_it_is_added() -> None:
    assert live(residual()) == {"x": 40, "g": 40 + 80, "f": 40 + 80 + 40, "sum": 40 + 40 + 40}
    found = followed(residual())
    assert (found.peak, found.at, found.alive) == (160, "f", {"x": 40, "g": 80, "f": 40})
    assert {node.path: node.until for node in found.nodes} == {"x": "sum", "g": "f", "f": "sum", "sum": "output"}


def test_a_chain_holds_two_tensors() -> None:
    sketch = Sketch()
    x = sketch.input("x", (1, 10))
    for i in range(5):
        x = sketch.add("activation", f"a{i}", (1, 10), x, attrs=RELU)
    assert set(live(sketch.graph(x)).values()) == {40, 80}


def test_a_view_takes_nothing_and_keeps_its_tensor() -> None:
    found = followed(residual(view=True))
    steps = {node.path: (node.bytes, node.live) for node in found.nodes}
    assert (steps["look"], steps["f"]) == ((0, 120), (40, 160))
    assert {node.path: node.until for node in found.nodes}["g"] == "f"


def test_a_copy_takes_its_own_memory() -> None:
    graph = single("layout", [(1, 10)], (1, 20), function="repeat", repeats=[1, 2])
    assert live(graph) == {"x0": 40, "it": 120}


def test_a_constant_is_no_activation() -> None:
    sketch = Sketch()
    table = sketch.add("constant", "table", (10,), operands={"value": (10,)})
    assert live(sketch.graph(sketch.add("add", "y", (1, 10), sketch.input("x", (1, 10)), table)))["y"] == 80


def test_a_result_nobody_reads_is_free_at_once() -> None:
    sketch = Sketch()
    x = sketch.input("x", (1, 10))
    sketch.add("activation", "unread", (1, 10), x, attrs=RELU)
    y = sketch.add("activation", "y", (1, 10), x, attrs=RELU)
    assert live(sketch.graph(y)) == {"x": 40, "unread": 80, "y": 80}


def test_the_same_tensor_read_twice_is_held_once() -> None:
    sketch = Sketch()
    x = sketch.input("x", (1, 10))
    assert live(sketch.graph(sketch.add("mul", "square", (1, 10), x, x))) == {"x": 40, "square": 80}


def test_formats_count_as_they_are_stored() -> None:
    graph = residual()
    kind = TensorType((2, 20), "float32", parse("fixed4.2"))
    assert live(graph.replace({"g": replace(graph.node("g").record, output=kind)}))["g"] == 40 + 10


def test_the_inside_of_an_outlined_node_counts_while_it_runs() -> None:
    inside = Sketch()
    a = inside.input("a", (2, 10))
    wide = inside.add("linear", "up", (2, 100), a, operands={"weight": (100, 10)})
    wide = inside.add("activation", "act", (2, 100), wide, attrs=RELU)
    body = inside.graph(inside.add("linear", "down", (2, 10), wide, operands={"weight": (10, 100)}))
    sketch = Sketch()
    x = sketch.input("x", (2, 10))
    mixed = sketch.add("moe", "mix", (2, 10), x, body=body)
    graph = sketch.graph(sketch.add("activation", "act", (2, 10), mixed, attrs=RELU))
    # up and act, 400 bytes a sample each, besides x and the result
    assert live(graph) == {"x": 40, "mix": 40 + 40 + 800, "act": 80}


def test_opaque_nodes_are_named() -> None:
    sketch = Sketch()
    found = followed(sketch.graph(sketch.opaque("odd", (1, 10), sketch.input("x", (1, 10)))))
    assert (found.unknown, found.peak) == (("odd",), 80)
    inside = Sketch()
    body = inside.graph(inside.opaque("odd", (1, 10), inside.input("a", (1, 10))))
    sketch = Sketch()
    mixed = sketch.add("moe", "mix", (1, 10), sketch.input("x", (1, 10)), body=body)
    assert followed(sketch.graph(mixed)).unknown == ("mix/odd",)


def test_what_is_no_tensor_takes_nothing() -> None:
    sketch = Sketch()
    x = sketch.input("x", (1, 10))
    size = sketch.opaque("size", (), x)
    y = sketch.add("activation", "y", (1, 10), x, attrs=RELU)
    graph = sketch.graph(y)
    record = replace(graph.node("size").record, output=TensorType((), "none"))
    assert live(graph.replace({size.name: record}))["size"] == 40


def test_peak_is_that_of_a_run_in_pytorch() -> None:
    """Hold tensors as long as the pass says, and find the same sum of their sizes at every node."""
    graph = residual()
    alive: dict[str, torch.Tensor] = {}
    for node, step in zip(graph.nodes(), followed(graph).nodes, strict=False):
        alive[node.path] = torch.empty(node.record.output.shape[1:])
        assert sum(t.nbytes for t in alive.values()) == step.live
        for other in followed(graph).nodes:
            if other.until == step.path:
                alive.pop(other.path, None)


def test_it_is_registered_and_the_report_is_json() -> None:
    assert PASSES["liveness"] is liveness
    graph = residual()
    after, report = liveness(graph)
    assert after is graph
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["peak"] == 160
