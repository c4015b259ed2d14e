from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models.base import build
from mase.ops.base import OPS, Op
from passes.base import PASSES
from passes.flops import FlopsReport, flops
from tests.passes.graphs import Sketch, single


def counted(graph: Graph) -> FlopsReport:
    report: FlopsReport = flops(graph)[1]
    return report


# Kind, shapes of the inputs, shape of the result, attributes and operands; multiply-accumulates and other operations of
# one sample, by hand. The batch is 2.
BY_HAND: dict[str, tuple[str, list[tuple[int, ...]], tuple[int, ...], dict[str, Any], int, int]] = {
    # every one of 3 results is a sum of 5 products; the bias is where the sum starts
    "linear": ("linear", [(2, 5)], (2, 3), {"operands": {"weight": (3, 5), "bias": (3,)}}, 3 * 5, 0),
    "linear of rows": ("linear", [(2, 7, 5)], (2, 7, 3), {"operands": {"weight": (3, 5)}}, 7 * 3 * 5, 0),
    "linear with relu": (
        "linear",
        [(2, 5)],
        (2, 3),
        {"activation": "relu", "operands": {"weight": (3, 5)}},
        15,
        3,  # a comparison each
    ),
    # 4 channels of 6 x 6 results, each of 3 channels x 3 x 3
    "conv": ("conv", [(2, 3, 8, 8)], (2, 4, 6, 6), {"operands": {"weight": (4, 3, 3, 3)}}, 4 * 36 * 27, 0),
    "depthwise conv": (
        "conv",
        [(2, 4, 8, 8)],
        (2, 4, 6, 6),
        {"groups": 4, "operands": {"weight": (4, 1, 3, 3), "bias": (4,)}},
        4 * 36 * 9,
        0,
    ),
    "conv of one axis": ("conv", [(2, 3, 10)], (2, 4, 8), {"operands": {"weight": (4, 3, 3)}}, 4 * 8 * 9, 0),
    # each of 4 x 5 x 5 inputs goes to 3 channels x 2 x 2 results
    "transposed conv": (
        "conv",
        [(2, 4, 5, 5)],
        (2, 3, 10, 10),
        {"transposed": True, "stride": [2, 2], "operands": {"weight": (4, 3, 2, 2)}},
        100 * 12,
        0,
    ),
    "matmul": ("matmul", [(2, 4, 6), (2, 6, 5)], (2, 4, 5), {}, 4 * 5 * 6, 0),
    "matmul with a constant": ("matmul", [(2, 4, 6)], (2, 4, 5), {"operands": {"other": (6, 5)}}, 4 * 5 * 6, 0),
    "matmul from the left": (
        "matmul",
        [(2, 6, 5)],
        (2, 4, 5),
        {"reverse": True, "operands": {"other": (4, 6)}},
        4 * 5 * 6,
        0,
    ),
    # 3 heads x 4 queries x 7 keys are 84 scores: 8 products each, 6 for the values; softmax 5, scale 1, mask 1
    "attention": (
        "attention",
        [(2, 3, 4, 8), (2, 3, 7, 8), (2, 3, 7, 6)],
        (2, 3, 4, 6),
        {"heads": 3, "kv_heads": 3, "head_size": 8},
        84 * (8 + 6),
        84 * 7,
    ),
    "grouped attention": (
        "attention",
        [(2, 6, 4, 8), (2, 2, 4, 8), (2, 2, 4, 8)],
        (2, 6, 4, 8),
        {"heads": 6, "kv_heads": 2, "head_size": 8, "causal": True},
        6 * 16 * 16,  # the query heads count, and every score, causal or not
        6 * 16 * 7,
    ),
    # 3 tokens of 4 features; the router scores 5 experts; each token goes through 2 of hidden size 6
    "moe": (
        "moe",
        [(2, 3, 4)],
        (2, 3, 4),
        {"experts": 5, "top_k": 2, "operands": {"router": (5, 4), "gate_up": (5, 12, 4), "down": (5, 4, 6)}},
        3 * 5 * 4 + 3 * 2 * (12 * 4 + 4 * 6),
        3 * 5 * 5 + 3 * 2 * (2 * 6 + 2 * 4),  # softmax; function and gate of 6, share and sum of 4
    ),
    "batch norm": (
        "norm",
        [(2, 3, 4)],
        (2, 3, 4),
        {"function": "batch", "operands": {"mean": (3,), "variance": (3,), "weight": (3,), "bias": (3,)}},
        0,
        12 * 4,
    ),
    "layer norm": (
        "norm",
        [(2, 3, 4)],
        (2, 3, 4),
        {"function": "layer", "shape": [4], "operands": {"weight": (4,), "bias": (4,)}},
        0,
        12 * 7,
    ),
    "group norm": ("norm", [(2, 4, 3)], (2, 4, 3), {"function": "group", "groups": 2}, 0, 12 * 5),
    "rms norm": (
        "norm",
        [(2, 3, 4)],
        (2, 3, 4),
        {"function": "rms", "shape": [4], "operands": {"weight": (4,)}},
        0,
        12 * 4,
    ),
    "activation": ("activation", [(2, 3, 4)], (2, 3, 4), {"function": "gelu"}, 0, 12),
    "softmax": ("softmax", [(2, 3, 4)], (2, 3, 4), {"axis": -1}, 0, 12 * 5),
    # the first 6 of 8 features turn: two products and a sum
    "rotary": ("rotary", [(2, 3, 5, 8), (1, 1, 5, 6), (1, 1, 5, 6)], (2, 3, 5, 8), {}, 0, 3 * 5 * 6 * 3),
    "add": ("add", [(2, 3), (2, 3)], (2, 3), {}, 0, 3),
    "mul of a number": ("mul", [(2, 3)], (2, 3), {"value": 0.5}, 0, 3),
    "requantize": ("requantize", [(2, 3)], (2, 3), {}, 0, 3),
    "embedding": ("embedding", [(2, 5)], (2, 5, 4), {"operands": {"weight": (9, 4)}}, 0, 0),
    "layout": ("layout", [(2, 3, 4)], (2, 12), {"shape": [12]}, 0, 0),
    # 2 x 2 windows of 4 elements in 3 channels
    "max pool": ("pool", [(2, 3, 4, 4)], (2, 3, 2, 2), {"function": "max", "size": [2, 2]}, 0, 3 * 4 * 4),
    "mean over axes": ("pool", [(2, 3, 4, 4)], (2, 3), {"function": "mean", "axes": [2, 3]}, 0, 48),
    # 5 elements into 3 windows: 0-1, 1-3, 3-4, so 2 + 3 + 2
    "adaptive pool": ("pool", [(2, 3, 5)], (2, 3, 3), {"function": "adaptive_average", "size": [3]}, 0, 3 * 7),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_kind_by_hand(name: str) -> None:
    kind, shapes, result, more, macs, other = BY_HAND[name]
    ports = ("query", "key", "value") if kind == "attention" else ()
    found = counted(single(kind, shapes, result, ports, **dict(more)))
    assert found.unknown == ()
    assert (found.macs, found.flops) == (macs, 2 * macs + other)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("lenet", torch.zeros(2, 1, 28, 28)),
        ("resnet", torch.zeros(2, 3, 32, 32)),
        ("mobilenet", torch.zeros(2, 3, 32, 32)),
        ("vit", torch.zeros(2, 3, 32, 32)),
        ("llama", torch.zeros(2, 16, dtype=torch.int64)),
    ],
)
def test_a_model_agrees_with_the_counter_of_pytorch(name: str, x: Tensor) -> None:
    model = build(name, {}).eval()
    found = counted(trace_module(model, (x,))[0])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)  # the counter sees the matrix products of attention in its plain form alone
    assert found.unknown == ()
    assert 2 * found.macs * len(x) == counter.get_total_flops()


def test_every_kind_counts_itself() -> None:
    assert [kind for kind, op in OPS.items() if not any("operations" in vars(cls) for cls in op.__mro__[:-3])] == []


def test_inputs_of_attention_are_told_by_their_ports() -> None:
    shapes = [(1, 2, 7, 6), (1, 2, 4, 8), (1, 2, 7, 8)]
    found = counted(single("attention", shapes, (1, 2, 4, 6), ("value", "query", "key")))
    assert found.macs == 2 * 4 * 7 * (8 + 6)
    assert counted(single("attention", [(1, 4, 24)], (1, 4, 8), ("qkv",))).unknown == ("it",)


def test_an_opaque_node_is_named_and_not_zero() -> None:
    sketch = Sketch()
    x = sketch.input("x", (2, 3))
    y = sketch.add("activation", "act", (2, 3), sketch.opaque("odd", (2, 3), x), attrs={"function": "relu"})
    found = counted(sketch.graph(y))
    assert [(node.path, node.macs, node.flops) for node in found.nodes] == [("odd", None, None), ("act", 0, 3)]
    assert (found.unknown, found.flops, found.kinds) == (("odd",), 3, {"activation": 3})


def test_a_kind_that_cannot_count_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["softmax"], "operations", Op.operations)
    found = counted(single("softmax", [(2, 3)], (2, 3), axis=-1))
    assert (found.unknown, found.nodes[0].macs) == (("it",), None)


def outlined(inner_opaque: bool) -> Graph:
    inside = Sketch()
    a = inside.input("a", (2, 6))
    b = inside.add("linear", "first", (2, 4), a, operands={"weight": (4, 6)})
    b = inside.opaque("odd", (2, 4), b) if inner_opaque else b
    body = inside.graph(inside.add("linear", "second", (2, 6), b, operands={"weight": (6, 4)}))
    sketch = Sketch()
    x = sketch.input("x", (2, 6))
    record = {"attrs": {"experts": 2}, "operands": {"gate_up": (2, 4, 6), "down": (2, 6, 4)}}
    return sketch.graph(sketch.add("moe", "mix", (2, 6), x, body=body, **record))  # type: ignore[arg-type]  # by name


def test_a_body_is_summed_into_its_node() -> None:
    found = counted(outlined(inner_opaque=False))
    assert [(node.path, node.macs) for node in found.nodes] == [("mix", 24 + 24)]
    assert found.unknown == ()


def test_what_is_unknown_inside_a_node_is_named_with_it() -> None:
    found = counted(outlined(inner_opaque=True))
    assert (found.nodes[0].macs, found.unknown) == (48, ("mix/odd",))


def test_what_does_not_depend_on_an_input_is_not_shared_among_samples() -> None:
    sketch = Sketch()
    x, table = sketch.input("x", (2, 3)), sketch.add("constant", "table", (3,), operands={"value": (3,)})
    shifted = sketch.add("add", "shifted", (3,), table, attrs={"value": 1})
    y = sketch.add("add", "sum", (2, 3), x, shifted)
    assert {node.path: node.flops for node in counted(sketch.graph(y)).nodes} == {"table": 0, "shifted": 3, "sum": 3}


def test_the_batch_is_the_axis_of_that_name() -> None:
    sketch = Sketch()
    x = sketch.input("x", (7, 2, 3), axes=["", "batch", ""])
    assert counted(sketch.graph(sketch.add("activation", "act", (7, 2, 3), x, attrs={"function": "relu"}))).flops == 21


def test_it_is_registered_and_the_report_is_json() -> None:
    assert PASSES["flops"] is flops
    graph = outlined(inner_opaque=True)
    after, report = flops(graph)
    assert after is graph
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (data["macs"], data["flops"], data["unknown"]) == (48, 96, ["mix/odd"])
