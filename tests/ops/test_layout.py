"""Layouts: every element in its place, whatever the lanes, and by the simplest block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mase
from mase.errors import GraphError, UnsupportedOp
from mase.frontend.module import trace_module
from mase.graph import Graph, Record, TensorType
from mase.interpreter import run
from mase.netlist import build
from mase.ops.layout import FUNCTIONS, NEEDS, Layout
from mase.testing import Mapped, OpLaws, same_codes
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops import branches
from tests.ops.branches import Joined
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


def moved(
    shape: tuple[int, ...], fmt: str, function: Callable[[Tensor, Tensor], Tensor], lanes: tuple[int, int] = (1, 1)
) -> Mapped:
    """Return a function of relu(x) and of another ReLU of x; lanes of what moves elements."""
    x = branches.draw(6, *shape, seed=len(shape))
    graph = branches.quantized(Joined(function, nn.ReLU(), nn.ReLU()), x, fmt, {"*": fmt})
    paths = {node.path: lanes for node in graph.operators() if node.kind == "layout"}
    return branches.mapped(graph, x, paths if lanes != (1, 1) else {})


@cache
def moves() -> Mapping[str, Mapped]:
    """Return cuts, joins, borders and reorder buffers: of rows and inside rows, with steps, in blocks."""
    return {
        "rows": moved((5, 4), "fixed6.3", lambda a, _: a[:, 1:3], (4, 4)),
        "inside": moved((3, 8), "fixed6.3", lambda a, _: a[:, :, 2:6], (2, 2)),
        "steps": moved((3, 7), "fixed6.3", lambda a, _: a[:, :, 1::2]),
        "blocks": moved((5, 4), "mxint5b2e3", lambda a, _: a[:, ::2], (4, 4)),
        "select": moved((3, 4), "int5", lambda a, _: a[:, :, -1]),
        "chunk": moved((4, 4), "fixed6.3", lambda a, _: a.chunk(2, 1)[0] + a.chunk(2, 1)[1]),
        "concat": moved((3, 4), "fixed6.3", lambda a, b: torch.cat((a, b), 1), (3, 3)),
        "beside": moved((3, 4), "mxint5b2e3", lambda a, b: torch.cat((a, b, a), 2), (4, 4)),
        "stack": moved((3, 4), "int5", lambda a, b: torch.stack((a, b), 1), (2, 2)),
        "pad": moved((3, 4), "mxint5b2e3", lambda a, _: F.pad(a, (0, 0, 2, 1)), (4, 4)),
        "flip": moved((3, 4), "fixed6.3", lambda a, _: a.flip(1), (4, 4)),
        "turned": moved((3, 4), "fixed6.3", lambda a, _: a.flip(2)),
        "again": moved((2, 4), "fixed6.3", lambda a, _: a[:, :, None].expand(-1, -1, 3, -1), (2, 2)),
    }


class TestLaws(OpLaws):
    kind = "layout"

    def graphs(self) -> Mapping[str, Mapped]:
        return {**cases(), **moves()}


def modules(mapped: Mapped) -> list[str]:
    """Return the modules that move elements."""
    found = [i.block.sv_module for i in build(mapped.graph).instances if not i.role.startswith(("fork", "convert"))]
    return [name for name in found if name not in {"mase_requantize", "mase_block_normalise", "mase_linear"}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rows", ["mase_slice"]),
        ("chunk", ["mase_slice", "mase_slice", "mase_pair"]),
        ("beside", ["mase_concat", "mase_concat"]),
        ("stack", ["mase_concat"]),
        ("pad", ["mase_pad"]),
        ("flip", ["mase_reorder"]),
    ],
)
def test_the_block_is_the_simplest_that_does_it(name: str, expected: list[str]) -> None:
    assert modules(moves()[name]) == expected


def test_a_permutation_that_nobody_minds_is_a_view() -> None:
    """Without a reader that says otherwise the result travels as its input does."""
    found = moved((3, 4), "fixed6.3", lambda a, _: a.permute(0, 2, 1))
    assert modules(found) == []
    netlist = build(found.graph)
    assert (netlist.stream_out.rows, netlist.stream_out.cols) == (3, 4)
    codes = netlist.codes(found.code)
    assert torch.equal(codes["permute"].mantissa, codes["left"].mantissa.permute(0, 2, 1))


IMAGES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pad": lambda a, _: F.pad(a, (1, 2, 0, 1)),
    "shuffle": lambda a, _: F.pixel_shuffle(a, 2),
    "unshuffle": lambda a, _: F.pixel_unshuffle(a, 2),
    "concat": lambda a, b: torch.cat((a, b), 1),
    "corner": lambda a, _: a[:, 1:3, 1:, :1],
    "channels": lambda a, _: a[:, ::3],
    "last": lambda a, _: a.permute(0, 2, 3, 1),
    "transposed": lambda a, _: a.transpose(2, 3),
    "halves": lambda a, _: torch.cat((a.chunk(2, 1)[1], a.chunk(2, 1)[0]), 1),
}


class Imaged(nn.Module):
    """A function between layers that take images by their channels."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.left, self.right = function, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.left(x), self.right(x))


@pytest.mark.parametrize("name", IMAGES)
def test_images_travel_by_pixel_through_every_move(name: str) -> None:
    torch.manual_seed(0)
    x = branches.draw(6, 4, 2, 4)
    graph = branches.quantized(Imaged(IMAGES[name]), x, "fixed7.4", {"*": NodeFormats("int4", output="fixed7.4")})
    values = run(graph, (x,), keep=True)
    netlist = build(map_graph(graph, MapConfig())[0])
    code = values.codes[netlist.entry]
    found, oracle = netlist.codes(code), netlist.codes(code, oracle=True)
    out = graph.output.inputs[0].name
    expected = IMAGES[name](found["left"].mantissa.double(), found.get("right", found["left"]).mantissa.double())
    assert torch.equal(found[out].mantissa, expected.long())
    for edge, one in found.items():
        assert same_codes(one, oracle[edge]), edge
    entry = netlist.stream(netlist.entry)
    blocks = netlist.circuit.run(entry.unpack(entry.pack(code)))
    for edge, pin in netlist.named.items():
        stream = netlist.stream(edge)
        shape = graph.node(edge).record.output.shape[1:]
        assert same_codes(stream.held(blocks[pin], shape), found[edge]), edge


def test_what_has_no_block_is_refused_by_name() -> None:
    refusals: Mapping[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "layout.* pad has a padding that the grid cannot code": (
            "fixed6.3",
            lambda a, _: F.pad(a, (0, 0, 1, 0), value=0.3),
        ),
        "slice breaks blocks of 2": ("mxint5b2e3", lambda a, _: a[:, :, 1:3]),
        "has no hardware": ("fixed6.3", lambda a, _: a.double()),
        "pad pads more than": ("fixed6.3", lambda a, _: F.pad(a, (1, 1))),
        "repeat_each|expand|repeat": ("mxint5b2e3", lambda a, _: a.repeat_interleave(3, 2)),
    }
    for why, (fmt, function) in refusals.items():
        x = branches.draw(6, 3, 4)
        graph = branches.quantized(Joined(function, nn.ReLU(), nn.ReLU()), x, fmt, {"*": fmt})
        with pytest.raises(UnsupportedOp, match=why):
            build(graph)


def test_tensors_of_different_formats_do_not_join() -> None:
    """The quantize pass puts requantize nodes between; a graph from elsewhere may lack them."""
    x = branches.draw(6, 3, 4)
    model = Joined(lambda a, b: torch.cat((a, b), 1), nn.ReLU(), nn.ReLU())
    graph = branches.quantized(model, x, "fixed6.3", {"left": "fixed6.3", "*": "fixed6.2"})
    with pytest.raises(UnsupportedOp, match=r"input 'left' has fixed6\.3 and the result fixed6\.2; a requantize node"):
        build(without_adapters(graph))
    below = Joined(lambda a, b: torch.cat((a, b), 1), nn.ReLU(), nn.Identity())  # whose range is another one
    scaled = branches.quantized(below, x - 2, "int6", {"*": "int6"})
    with pytest.raises(UnsupportedOp, match="'left' has int6 with other parameters; a requantize node"):
        build(without_adapters(scaled))


def without_adapters(graph: Graph) -> Graph:
    """Return the graph whose joins take what comes."""
    out, editable = graph.edited()
    for node in [node for node in out.operators() if node.kind == "requantize"]:
        node.node.replace_all_uses_with(node.inputs[0].node)
        editable.erase_node(node.node)
    return out.verify()


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
    turned = x.reshape(1, 1, 4, 2, 3).permute(0, 2, 1, 3, 4).reshape(1, 4, 2, 3)
    assert torch.equal(compute("layout", (turned,), {"function": "patches", "patch": [2, 2]}), y)
    large = compute("layout", (x,), {"function": "nearest", "factors": [2.0, 1.0]})
    assert torch.equal(large, x.repeat_interleave(2, 2))


def test_several_tensors_become_one() -> None:
    y = draw(2, 3, 4, seed=1)
    assert torch.equal(compute("layout", (X, y), {"function": "concat", "axis": 1})[:, 3:], y)
    assert torch.equal(compute("layout", (X, y, X), {"function": "stack", "axis": 0})[1], y)
    refused("flip has 2 inputs; allowed is 1", "layout", (X, y), {"function": "flip", "axes": [0]})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_tested_and_names_the_attribute_that_it_lacks(function: str) -> None:
    elsewhere = {"patches", "pixel_shuffle", "pixel_unshuffle", "nearest", "concat", "stack"}
    assert function in {attrs.get("function", "reshape") for attrs, _ in MOVES} | elsewhere
    if NEEDS.get(function) and function != "reshape":
        refused(f"{function} has no {NEEDS[function][0]}", "layout", (X,), {"function": function})


def test_all_but_a_few_functions_may_have_hardware() -> None:
    records = {f: Record("layout", "a", TensorType((1,)), {"function": f}) for f in FUNCTIONS}
    assert {f for f, record in records.items() if not Layout.builds(record)} == {"cast"}


class Picked(nn.Module):
    """Some elements by a list of constants, through a ReLU."""

    def __init__(self, *indices: int) -> None:
        super().__init__()
        self.indices = list(indices)

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()[:, self.indices]


def test_lists_of_indices_are_built_where_they_are_a_nest() -> None:
    x = draw(6, 5, 3)

    def graph(*indices: int) -> Graph:
        traced = mase.trace(Picked(*indices).eval(), x, front="export")
        return mase.quantize(traced, {"default": {"activation": "fixed6.3"}}, x)

    for indices, module in (((4, 2, 0), "mase_reorder"), ((1, 2), "mase_slice"), ((0, 0, 3, 3), "mase_reorder")):
        netlist = build(graph(*indices))
        assert [instance.block.sv_module for instance in netlist.instances] == ["mase_requantize", module]
        assert torch.equal(graph(*indices)(x), graph(0, 1, 2, 3, 4)(x)[:, list(indices)])
    with pytest.raises(UnsupportedOp, match=r"gather gives elements in an order that is not a nest of 5 loops"):
        build(graph(0, 1, 4))
