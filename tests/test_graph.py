"""The graph: views, replacement without copies, checks, files."""

from __future__ import annotations

import json
import operator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from mase.errors import GraphError, MaseError
from mase.formats import QuantParams, parse
from mase.formats.base import FORMATS
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


def test_ten_thousand_nodes_verify_and_become_a_networkx_graph() -> None:
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
    assert large.verify() is large
    assert len(large.to_networkx()) == 10_002


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


class Running(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def test_an_opaque_node_cannot_be_saved(tmp_path: Path) -> None:
    graph, _ = trace_module(Running().eval(), (X,))
    with pytest.raises(
        GraphError, match=r"cannot save: opaque node 'cumsum' .*needs the traced Python function cumsum"
    ):
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
        ("weights", r"weights\.safetensors: damaged, or of another graph: the digest in graph\.json says so"),
        ("schema", "schema 99; this version reads schema 1 to 4"),
        ("fields", "corrupt: .*kind"),
        ("edges", "corrupt: .*nowhere"),
        ("format", "fixd8"),
    ],
)
def test_a_damaged_graph_is_one_clear_error(what: str, why: str, tmp_path: Path) -> None:
    broken(tmp_path, what)
    with pytest.raises(GraphError, match=why):
        Graph.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("attrs", None, "attrs of a node: found 'None'; a table is needed"),
        ("attrs", {"axes": ["batch"]}, "axes of node '.*': found .*; there must be one name for each of 2 axes"),
        ("name", 3, "name of a node: found '3'; text is needed"),
        ("path", ["x"], "path of a node: .*text is needed"),
        (
            "output",
            {"dtype": 3, "shape": [2, 3], "format": None},
            "output.dtype: found 3; input should be a valid string",
        ),
    ],
)
def test_a_field_of_another_kind_is_one_clear_error(field: str, value: Any, why: str, tmp_path: Path) -> None:
    trace_module(nn.Sequential(nn.Linear(3, 2)).eval(), torch.zeros(2, 3))[0].save(tmp_path)
    data = json.loads((tmp_path / "graph.json").read_text())
    data["nodes"][0][field] = value
    (tmp_path / "graph.json").write_text(json.dumps(data))
    with pytest.raises(GraphError, match=f"corrupt: .*{why}"):
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


# -- several inputs and outputs ---------------------------------------------------------------------------------------


def between(*, axes: tuple[list[str], list[str]] = (["batch", ""], ["batch", ""])) -> Graph:
    """Return a graph of two inputs, ``a`` and ``b``, with the outputs ``sum`` and ``product``."""
    graph, kind = fx.Graph(), TensorType((2, 3))
    a, b = graph.placeholder("a"), graph.placeholder("input_1")
    a.meta = {META: Record("input", "a", kind, {"axes": axes[0]})}
    b.meta = {META: Record("input", "input_1", kind, {"axes": axes[1], "argument": "input"})}
    parts = {"sum": graph.call_function(typed, (a, b)), "product": graph.call_function(typed, (a, a))}
    for (name, node), op in zip(parts.items(), ("add", "mul"), strict=True):
        node.meta = {META: Record(op, name, kind)}
    out = graph.output(tuple(parts.values()))
    out.meta = {META: Record("output", "output", kind, {"fields": list(parts)})}
    return Graph(NodeGraph(nn.Module(), graph), {}).verify()


A, B = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]])


def test_inputs_go_by_place_or_by_the_models_names() -> None:
    graph = between()
    for y in (graph(A, B), graph(A, input=B), graph(input=B, a=A)):
        assert torch.equal(y, A + B)


def test_a_call_gives_the_first_output_and_fields_gives_all() -> None:
    fields = between().fields(A, input=B)
    assert list(fields) == ["sum", "product"]
    assert torch.equal(fields["product"], A * A)
    assert [node.name for node in between().output.inputs] == ["typed", "typed_1"]
    assert list(chain().fields(X)) == ["output"]


@pytest.mark.parametrize(
    ("args", "named", "why"),
    [
        ((A,), {}, "found 1 tensors; the graph takes 2"),
        ((A,), {"b": B}, r"input 'b': the graph has no input of this name; allowed: a, input"),
        ((A, B), {"a": A}, "input 'a': is given twice"),
        ((), {"a": A}, "input 'input': is missing; the graph takes a, input"),
        ((A, B.repeat(2, 1)), {}, "input 'input': batch is 2; in input 'a' it is 1"),
        ((A, B[:, :2]), {}, r"input 'input': found \(1, 2\); allowed is \(batch, 3\)"),
        ((A, B.long()), {}, "input 'input': found int64; allowed is float32"),
    ],
)
def test_wrong_inputs_are_refused(args: tuple[Tensor, ...], named: dict[str, Tensor], why: str) -> None:
    with pytest.raises(GraphError, match=why):
        between()(*args, **named)


def test_axes_without_a_name_keep_their_size() -> None:
    graph = between(axes=(["", ""], ["", ""]))
    with pytest.raises(GraphError, match=r"input 'a': found \(1, 3\); allowed is \(2, 3\)"):
        graph(A, B)


def test_several_outputs_survive_a_save(tmp_path: Path) -> None:
    between().save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert [node.record for node in loaded.nodes()] == [node.record for node in between().nodes()]
    assert torch.equal(loaded.fields(A, input=B)["product"], A * A)


# -- bodies -----------------------------------------------------------------------------------------------------------


def outlined() -> Graph:
    """Return ``x + gate(x, y)`` whose gate has a body, ``relu(x W^T) * y``; W belongs to the gate."""
    kind, weight = TensorType((2, 3)), TensorType((3, 3))
    inner = fx.Graph()
    p, q = inner.placeholder("p"), inner.placeholder("q")
    p.meta, q.meta = ({META: Record("input", name, kind)} for name in "pq")
    steps = [inner.call_function(typed, (p,))]
    steps[0].meta = {
        META: Record("linear", "gate.inner", kind, {}, {"weight": weight}, table={"weight": "gate.weight"})
    }
    steps.append(inner.call_function(typed, (steps[0],)))
    steps[1].meta = {META: Record("activation", "gate.relu", kind, {"function": "relu"})}
    steps.append(inner.call_function(typed, (steps[1], q)))
    steps[2].meta = {META: Record("mul", "gate.mul", kind)}
    inner.output(steps[2]).meta = {META: Record("output", "output", kind)}
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    x.meta, y.meta = ({META: Record("input", name, kind)} for name in "xy")
    gate = graph.create_node("call_function", typed, (x, y), name="gate")
    gate.meta = {META: Record("mul", "gate", kind, {}, {"weight": weight}, ports=("data", "factor"))}
    added = graph.call_function(typed, (x, gate))
    added.meta = {META: Record("add", "sum", kind)}
    graph.output(added).meta = {META: Record("output", "output", kind)}
    table = {"gate.weight": torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [3.0, 0.0, 0.5]])}
    body = Graph(NodeGraph(nn.Module(), inner), {})
    return Graph(NodeGraph(nn.Module(), graph), table, bodies={"gate": body}).verify()


def test_an_outlined_node_runs_its_body_on_the_graphs_tensors() -> None:
    graph = outlined()
    assert graph.bodies["gate"].tensors is graph.tensors
    assert torch.equal(graph(A, B), A + (A @ graph.tensors["gate.weight"].t()).relu() * B)
    changed = graph.replace(tensors={"gate.weight": torch.eye(3)})
    assert torch.equal(changed(A, B), A + A * B)
    assert torch.equal(changed.overlaid({})(A, B), A + A * B)
    assert not torch.equal(graph(A, B), changed(A, B))


def test_a_body_can_be_replaced() -> None:
    graph = outlined()
    body = graph.bodies["gate"]
    relu = body.node("gate.relu")
    plain = body.replace({relu.name: replace(relu.record, attrs={"function": "abs"})})
    changed = graph.replace(bodies={"gate": plain})
    assert torch.equal(changed(-A, B), -A + (A @ graph.tensors["gate.weight"].t()).abs() * B)
    assert graph.bodies["gate"].node("gate.relu").record.attrs == {"function": "relu"}


def test_formats_of_an_outlined_nodes_parameters_reach_its_body() -> None:
    graph = outlined()
    record, fmt = graph.node("gate").record, parse("int2")
    kind = replace(record.operands["weight"], format=fmt)
    params = fmt.calibrate(graph.tensors["gate.weight"])
    rounded = graph.replace({"gate": replace(record, operands={"weight": kind})}, quant={"gate.weight": params})
    weight = fmt.quantize(graph.tensors["gate.weight"], params)
    assert not torch.equal(weight, graph.tensors["gate.weight"])
    assert torch.equal(rounded(A, B), A + (A @ weight.t()).relu() * B)


def test_bodies_survive_a_save(tmp_path: Path) -> None:
    graph = outlined()
    body = graph.bodies["gate"]
    quant = {body.node("gate.relu").name: QuantParams(scale=torch.tensor(0.5, dtype=torch.float64))}
    graph.replace(bodies={"gate": body.replace(quant=quant)}).save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert torch.equal(loaded(A, B), graph(A, B))
    assert loaded.bodies["gate"].tensors is loaded.tensors
    assert loaded.node("gate").record.ports == ("data", "factor")
    assert float(loaded.bodies["gate"].params("typed_1").scale) == 0.5  # type: ignore[arg-type]
    assert list(loaded.tensors) == ["gate.weight"]


def test_bodies_and_ports_are_verified() -> None:
    graph = outlined()
    record = graph.node("gate").record
    with pytest.raises(GraphError, match=r"node 'gate' \(mul\): has 2 inputs; its ports are \('data',\)"):
        graph.replace({"gate": replace(record, ports=("data",))}).verify()
    with pytest.raises(GraphError, match=r"node 'gate' \(mul\): has 2 inputs; its body takes 1"):
        graph.replace(bodies={"gate": chain()}).verify()
    broken = graph.bodies["gate"]
    mul = broken.node("gate.mul")
    broken = broken.replace({mul.name: replace(mul.record, attrs={"function": "max"})})
    with pytest.raises(GraphError, match=r"node 'gate.mul' \(mul\): function 'max'"):
        graph.replace(bodies={"gate": broken}).verify()


# -- what is saved ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [str(fmt()) for _, fmt in FORMATS.items()] + ["int4g2a", "int4c", "ternary", "int8p"])
def test_parameters_of_every_format_survive(text: str, tmp_path: Path) -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    if text == "int8p":
        params = QuantParams(
            *(torch.tensor(v) for v in (0.5, 3, -2)), 0, torch.tensor(1.5), (0, 1), 7, torch.tensor(0.25)
        )  # all fields at once
    else:
        params = parse(text).calibrate(x, 0 if text.endswith("c") else -1)
    chain().replace(quant={"_0": params}).save(tmp_path)
    loaded = Graph.load(tmp_path).params("_0")
    for field in fields(QuantParams):
        before, after = getattr(params, field.name), getattr(loaded, field.name)
        equal = torch.equal(before, after) if isinstance(before, Tensor) else before == after
        assert equal and (not isinstance(before, Tensor) or before.dtype == after.dtype), field.name
    if text != "int8p":
        assert torch.equal(parse(text).quantize(x, params), parse(text).quantize(x, loaded))


def test_transposed_weights_stay_so_and_shared_ones_come_back_apart(tmp_path: Path) -> None:
    graph = chain()
    stored = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    graph = graph.replace(tensors={"0.weight": stored.t(), "2.bias": graph.tensors["0.bias"][:2]})
    graph.save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert loaded.tensors["0.weight"].stride() == stored.t().stride()
    assert torch.equal(loaded(X), graph(X))


def aten() -> Graph:
    """Return ``sum of the halves of x, scaled`` in ATen calls, as exported models have them."""
    graph, kind = fx.Graph(), TensorType((4, 2))
    x = graph.placeholder("x")
    x.meta = {META: Record("input", "x", TensorType((4, 4)))}
    split = graph.call_function(torch.ops.aten.split.Tensor, (x, 2), {"dim": 1})
    parts = [graph.call_function(operator.getitem, (split, i)) for i in (0, 1)]
    both = graph.call_function(torch.ops.aten.stack.default, (parts, 0))
    total = graph.call_function(torch.ops.aten.sum.dim_IntList, (both, [0]), {"dtype": torch.float64})
    capped = graph.call_function(torch.ops.aten.clamp.default, (total, float("-inf"), 1.5))
    for node in (split, *parts, both, total, capped):
        output = {split: TensorType((), "none"), both: TensorType((2, 4, 2))}.get(node, kind)
        node.meta = {META: Record("opaque", node.name, output, {"target": str(node.target)})}
    graph.output(capped).meta = {META: Record("output", "output", kind)}
    return Graph(NodeGraph(nn.Module(), graph), {}).verify()


def test_opaque_calls_of_aten_survive(tmp_path: Path) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    aten().save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert torch.equal(loaded(x), (x[:, :2].double() + x[:, 2:].double()).clamp(max=1.5))
    assert loaded.node("clamp_default").node.args[1] == float("-inf")


@pytest.mark.parametrize(
    "target",
    ["aten.from_file.default", "os.system", "operator.attrgetter", "aten.nothing.default", "prims.add.default"],
)
def test_a_file_cannot_name_any_other_code(target: str, tmp_path: Path) -> None:
    aten().save(tmp_path)
    text = (tmp_path / "graph.json").read_text().replace("aten.sum.dim_IntList", target)
    (tmp_path / "graph.json").write_text(text)
    with pytest.raises(GraphError, match=r"corrupt: "):
        Graph.load(tmp_path)


def test_a_file_of_the_first_schema_is_read(tmp_path: Path) -> None:
    graph = mapped()
    graph.save(tmp_path)
    document = json.loads((tmp_path / "graph.json").read_text())
    old = {"schema": 1, "nodes": document["nodes"], "quant": document["quant"]}
    for node in old["nodes"]:
        del node["ports"]
    for entry in old["quant"].values():
        del entry["axes"], entry["seed"]
    (tmp_path / "graph.json").write_text(json.dumps(old))
    assert torch.equal(Graph.load(tmp_path)(X), graph(X))
