"""Flatten and reshape: every element in its place, whatever the lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mase.errors import GraphError, UnsupportedOp
from mase.frontend.module import trace_module
from mase.graph import Record, TensorType
from mase.netlist import build
from mase.ops.layout import FUNCTIONS, NEEDS, Layout
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused


def mapped(
    layers: list[nn.Module], shape: tuple[int, ...], fmt: str, lanes: Mapping[str, tuple[int, int]], **kwargs: str
) -> Mapped:
    """Return layers with one activation format and linear lanes by path."""
    torch.manual_seed(len(layers))
    formats = {str(i): NodeFormats("int4", output=fmt) for i, m in enumerate(layers) if isinstance(m, nn.Linear)}
    folding = {path: Folding(*pair) for path, pair in lanes.items()}
    case = Network("layout", layers, torch.randn(6, *shape), kwargs.get("inputs", "fixed7.4"), formats, folding).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    flat = [nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 2)]
    up = [nn.Linear(4, 12), nn.Unflatten(1, (4, 3)), nn.Linear(3, 5)]
    return {
        "flatten": mapped(flat, (5, 4), "fixed6.3", {"0": (2, 2), "2": (4, 1)}),
        "flatten_wide": mapped(flat, (5, 4), "int6", {"0": (4, 3), "2": (16, 2)}),
        "unflatten": mapped(up, (4,), "fixed6.3", {"0": (1, 5), "2": (2, 2)}),
        "blocks": mapped(
            [nn.Linear(4, 8), nn.Flatten(), nn.Linear(24, 3)], (3, 4), "mxint5b4e3", {"0": (2, 2), "2": (8, 4)}
        ),
        "last": mapped([nn.Linear(4, 6), nn.Unflatten(1, (2, 3))], (4,), "fixed6.3", {"0": (1, 4)}),
    }


class TestLaws(OpLaws):
    kind = "layout"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_flatten_at_the_input_is_the_hosts() -> None:
    source = mapped([nn.Flatten(), nn.Linear(12, 3)], (3, 4), "fixed6.3", {"1": (4, 1)})
    netlist = build(source.graph)
    assert ([i.node for i in netlist.instances], netlist.stream_in.rows, netlist.stream_in.cols) == (["_1"], 1, 12)


def test_a_reshape_that_moves_nothing_has_no_hardware_but_keeps_its_name() -> None:
    source = mapped([nn.Linear(4, 6), nn.Flatten(), nn.Linear(6, 2)], (1, 4), "fixed6.3", {"0": (1, 6), "2": (6, 1)})
    netlist = build(source.graph)
    assert [i.node for i in netlist.instances] == ["_0", "_2"]
    assert list(netlist.edges()) == ["input_1", "_1", "_2"]
    assert netlist.codes(source.code)["_1"].mantissa.shape == (len(source.code.mantissa), 6)


def test_blocks_must_tile_both_rows() -> None:
    with pytest.raises(UnsupportedOp, match=r"node '1' .*blocks of 4 do not tile rows of 6 and of 18"):
        mapped([nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 3)], (3, 4), "mxint5b4e3", {})


def test_a_shape_that_does_not_fit_is_refused_by_the_record() -> None:
    graph, _ = trace_module(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).eval(), (torch.randn(2, 4),))
    node = graph.node("1")
    with pytest.raises(GraphError, match=r"node '1' .*\(6,\) cannot become \(2, 4\)"):
        graph.replace({node.name: replace(node.record, attrs={"shape": [2, 4]})}).verify()


X = draw(2, 3, 4)
MOVES: list[tuple[dict[str, Any], Tensor]] = [
    ({"shape": [4, 3]}, X.reshape(2, 4, 3)),
    ({"shape": [-1]}, X.reshape(2, 12)),
    ({"function": "view", "shape": [3, -1]}, X.reshape(3, 8)),
    ({"function": "flatten", "start": 0, "end": 1}, X.reshape(6, 4)),
    ({"function": "unflatten", "axis": 2, "shape": [2, -1]}, X.reshape(2, 3, 2, 2)),
    ({"function": "unsqueeze", "axis": 0}, X[None]),
    ({"function": "squeeze", "axis": 0}, X),
    ({"function": "permute", "axes": [2, 0, 1]}, torch.einsum("abc->cab", X)),
    ({"function": "slice", "axis": 1, "start": 1, "end": None, "step": 2}, X[:, 1::2]),
    ({"function": "select", "axis": 2, "index": -1}, X[:, :, -1]),
    ({"function": "index", "index": ["...", "new", [0, 2, None]]}, X[..., None, 0:2]),
    ({"function": "gather", "axis": 1, "indices": [2, 0, 2]}, X[:, [2, 0, 2]]),
    ({"function": "expand", "shape": [5, -1, -1, -1]}, torch.stack([X] * 5)),
    ({"function": "repeat", "repeats": [1, 2, 1]}, torch.cat((X, X), 1)),
    ({"function": "repeat_each", "repeats": 2, "axis": 2}, torch.stack((X, X), -1).flatten(2)),
    ({"function": "pad", "padding": [1, 0], "value": 7.0}, torch.cat((torch.full((2, 3, 1), 7.0), X), 2)),
    ({"function": "flip", "axes": [1]}, X[:, [2, 1, 0]]),
    ({"function": "roll", "shifts": [1], "axes": [1]}, X[:, [2, 0, 1]]),
    ({"function": "contiguous"}, X),
    ({"function": "cast", "dtype": "int64"}, X.long()),
]


@pytest.mark.parametrize(("attrs", "expected"), MOVES, ids=[attrs.get("function", "reshape") for attrs, _ in MOVES])
def test_elements_go_where_they_belong(attrs: dict[str, Any], expected: Tensor) -> None:
    assert torch.equal(compute("layout", (X,), attrs), expected)


@pytest.mark.parametrize("attrs", [a for a, _ in MOVES], ids=[a.get("function", "reshape") for a, _ in MOVES])
def test_nothing_is_rounded_and_a_view_takes_no_memory(attrs: dict[str, Any]) -> None:
    record = Record("layout", "a", TensorType((1,)), attrs)
    assert Layout.moves(record)
    if Layout.view(record):
        found = Layout.float(record, {}, X)
        assert found.untyped_storage().data_ptr() == X.untyped_storage().data_ptr()


def test_images_are_shuffled_and_enlarged() -> None:
    x = draw(1, 4, 2, 3)
    y = compute("layout", (x,), {"function": "pixel_shuffle", "factor": 2})
    assert torch.equal(y[0, 0, 0::2, 0::2], x[0, 0])
    assert torch.equal(compute("layout", (y,), {"function": "pixel_unshuffle", "factor": 2}), x)
    large = compute("layout", (x,), {"function": "nearest", "factors": [2.0, 1.0]})
    assert torch.equal(large, x.repeat_interleave(2, 2))


def test_several_tensors_become_one() -> None:
    y = draw(2, 3, 4, seed=1)
    assert torch.equal(compute("layout", (X, y), {"function": "concat", "axis": 1})[:, 3:], y)
    assert torch.equal(compute("layout", (X, y, X), {"function": "stack", "axis": 0})[1], y)
    refused("flip has 2 inputs; allowed is 1", "layout", (X, y), {"function": "flip", "axes": [0]})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_tested_and_names_the_attribute_that_it_lacks(function: str) -> None:
    elsewhere = {"pixel_shuffle", "pixel_unshuffle", "nearest", "concat", "stack"}
    assert function in {attrs.get("function", "reshape") for attrs, _ in MOVES} | elsewhere
    if NEEDS.get(function) and function != "reshape":
        refused(f"{function} has no {NEEDS[function][0]}", "layout", (X,), {"function": function})


def test_only_reshape_has_hardware() -> None:
    records = {f: Record("layout", "a", TensorType((1,)), {"function": f}) for f in FUNCTIONS}
    assert [f for f, record in records.items() if Layout.builds(record)] == ["reshape"]
