"""The graph: views, replacement without copies, checks, files."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from mase.errors import GraphError, MaseError
from mase.formats import parse
from mase.frontend.module import trace_module
from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed
from passes.map import MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def chain(*layers: nn.Module) -> Graph:
    torch.manual_seed(0)
    layers = layers or (nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return trace_module(nn.Sequential(*layers).eval(), (X,))[0]


def mapped() -> Graph:
    quantized, _ = quantize.run(chain(), QuantizeConfig(NodeFormats("int4c", "mxint5b2e3")), [X])
    return map_graph(quantized, MapConfig())[0]


# -- reading and replacing --------------------------------------------------------------------------------------------


def test_nodes_are_found_by_name_and_by_path() -> None:
    graph = chain()
    assert graph.node("0").name == graph.node("_0").name == "_0"
    assert graph.paths() == ["input_1", "0", "1", "2"]
    with pytest.raises(GraphError, match="node 'O': not in the graph; allowed: 0, 1, 2, input_1"):
        graph.node("O")


def test_replacing_a_record_changes_the_copy_alone_and_shares_tensors() -> None:
    graph = chain()
    node = graph.node("1")
    other = graph.replace({node.name: replace(node.record, attrs={"function": "relu", "note": 1})})
    assert other.node("1").record.attrs["note"] == 1
    assert "note" not in graph.node("1").record.attrs
    assert other.tensors["0.weight"].data_ptr() == graph.tensors["0.weight"].data_ptr()


def test_an_overlay_is_a_view() -> None:
    graph = chain()
    node = graph.node("1")
    view = graph.overlaid({node.name: replace(node.record, source="elsewhere.py:1")})
    assert (view.node("1").record.source, view.module) == ("elsewhere.py:1", graph.module)
    assert graph.node("1").record.source != "elsewhere.py:1"
    assert view.replace().node("1").record.source == "elsewhere.py:1"


def test_networkx_has_the_edges() -> None:
    out = chain().to_networkx()
    assert list(out.edges) == [("input_1", "_0"), ("_0", "_1"), ("_1", "_2"), ("_2", "output")]
    assert out.nodes["_0"]["kind"] == "linear"


def test_no_python_is_written_for_a_graph() -> None:
    """A module's name becomes code where fx compiles a graph; ours is only interpreted."""
    graph = fx.Graph()
    graph.output(graph.call_module('x"); raise SystemExit("', (graph.placeholder("x"),)))
    module = nn.Module()
    module.add_module('x"); raise SystemExit("', nn.Identity())
    held = NodeGraph(module, graph)
    with pytest.raises(NotImplementedError):
        held(X)


def test_typed_nodes_run_inside_a_graph_alone() -> None:
    with pytest.raises(GraphError, match="call the Graph, not its GraphModule"):
        typed(X)


# -- verify -----------------------------------------------------------------------------------------------------------


def test_a_node_without_record_is_named() -> None:
    graph, _ = chain().edited()
    del graph.node("1").node.meta[META]
    with pytest.raises(GraphError, match="node '_1': has no record"):
        graph.verify()


def test_a_parameter_that_is_missing_or_misshapen_is_named() -> None:
    graph = chain()
    del graph.tensors["0.bias"]
    with pytest.raises(GraphError, match=r"node '0' .*parameter '0.bias' is not in the table"):
        graph.verify()
    graph = chain()
    graph.tensors["0.bias"] = torch.zeros(5)
    with pytest.raises(GraphError, match=r"node '0' .*bias has shape \(5,\); its record says \(4,\)"):
        graph.verify()


def test_ten_thousand_nodes_verify_in_a_second() -> None:
    graph = fx.Graph()
    node = graph.placeholder("x")
    kind = TensorType((2, 3))
    node.meta = {META: Record("input", "x", kind)}
    for i in range(10_000):
        node = graph.call_function(typed, (node,))
        node.meta = {META: Record("activation", f"relu{i}", kind, {"function": "relu"})}
    node = graph.output(node)
    node.meta = {META: Record("output", "output", kind)}
    large = Graph(NodeGraph(nn.Module(), graph), {})
    start = time.process_time()
    large.verify()
    assert time.process_time() - start < 1
    start = time.process_time()
    assert len(large.to_networkx()) == 10_002
    assert time.process_time() - start < 1


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_saved_graph_comes_back_with_everything(tmp_path: Path) -> None:
    graph = mapped()
    graph.save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert [node.record for node in loaded.nodes()] == [node.record for node in graph.nodes()]
    assert torch.equal(loaded(X), graph(X))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sorted(before) == ["graph.json", "weights.safetensors"]


class Sigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


def test_an_opaque_node_cannot_be_saved(tmp_path: Path) -> None:
    graph, _ = trace_module(Sigmoid().eval(), (X,))
    with pytest.raises(GraphError, match=r"cannot save: opaque node 'sigmoid' .*needs the traced Python: sigmoid"):
        graph.save(tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def broken(folder: Path, what: str) -> None:
    mapped().save(folder)
    document = json.loads((folder / "graph.json").read_text())
    if what == "missing":
        (folder / "weights.safetensors").unlink()
    elif what == "json":
        (folder / "graph.json").write_text("{")
    elif what == "weights":
        data = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])
    elif what == "schema":
        (folder / "graph.json").write_text(json.dumps({**document, "schema": 99}))
    elif what == "fields":
        del document["nodes"][0]["kind"]
        (folder / "graph.json").write_text(json.dumps(document))
    elif what == "edges":
        document["nodes"][2]["inputs"] = ["nowhere"]
        (folder / "graph.json").write_text(json.dumps(document))
    elif what == "format":
        document["nodes"][1]["output"]["format"] = "fixd8"
        (folder / "graph.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("missing", "weights.safetensors: no such file"),
        ("json", "corrupt"),
        ("weights", "corrupt"),
        ("schema", "schema 99; this version reads schema 1 to 2"),
        ("fields", "corrupt: .*kind"),
        ("edges", "corrupt: .*nowhere"),
        ("format", "fixd8"),
    ],
)
def test_a_damaged_graph_is_one_clear_error(what: str, why: str, tmp_path: Path) -> None:
    broken(tmp_path, what)
    with pytest.raises(GraphError, match=why):
        Graph.load(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaseError, match=r"weights.safetensors: cannot write"):
        mapped().save(tmp_path / "file" / "graph")


def test_formats_and_their_parameters_survive(tmp_path: Path) -> None:
    graph = mapped()
    graph.save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert loaded.node("0").record.output.format == parse("mxint5b2e3")
    assert torch.equal(loaded.params("0.weight").scale, graph.params("0.weight").scale)
    assert loaded.params("0.weight").axis == 0
    assert torch.equal(loaded.params("_0").base, graph.params("_0").base)
