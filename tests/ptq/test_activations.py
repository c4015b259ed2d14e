"""Activations of few bits: what layers read and attention keeps is rounded, in memory and in folders alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.calib.edges import Edge, inserted, read
from mase.errors import ConfigError, GraphError
from mase.formats import parse
from mase.frontend.export import trace_export
from mase.graph import Graph
from mase.interpreter import run
from mase.ops.base import OPS
from passes.ptq.base import Block, Quantizer
from passes.ptq.blockwise import Runner
from passes.ptq.export.base import export
from passes.ptq.folder import FOUND, JOURNAL, Job, check, load, quantize_folder
from passes.ptq.recipe import Plan, recipe
from passes.ptq.rtn import Rtn
from tests.ptq import folders
from tests.ptq.models import Streams, graph, tokens

STATIC = {"inputs": "int8", "scales": "static"}
CACHE = {"inputs": "mxint8", "keys": "int4g4", "values": "int4c", "keys_along": "channel"}
KINDS = [{}, STATIC, {**STATIC, "inputs": "int8c"}, CACHE, {"inputs": "nvfp4", "scales": "static"}]


def values(g: Graph, x: Tensor) -> dict[str, Tensor]:
    kept = run(g, [x], keep=True)
    return {node.name: kept.real(node.name).float() for node in g.operators() if not node.name.startswith("constant")}


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_layers_read_rounded_values(fields: dict[str, Any]) -> None:
    """Each linear node of a block multiplies what its format gives; outside of blocks nothing changes."""
    g, x = graph(layers=2), tokens(3, seed=5)
    built, report = mase.ptq(g, [{"activations": fields}, {"rtn": {"format": "int8c"}}], tokens(8))
    found = values(built, x)
    text = str(fields.get("inputs", "int8c"))
    for row in report.layers:
        node = built.node(row.path)
        edge = node.inputs[0]
        assert row.input == text and edge.name.endswith("_rounded")
        before, after = found[edge.inputs[0].name], found[edge.name]
        if edge.kind == "dynamic":
            expected = OPS["dynamic"].float(edge.record, {}, before)
        else:
            expected = parse(text).quantize(before, edge.params())
        assert torch.equal(after, expected) and not torch.equal(after, before)
        assert torch.equal(found[node.name], after @ built.tensors[node.record.key("weight")].t())
    readers = {edge.readers for edge in report.edges}
    assert len(readers) == len(report.edges) == (12 if fields is CACHE else 8)  # query, key and value share one
    assert built.node("head").inputs[0].kind not in ("dynamic", "requantize")


def test_static_scales_are_those_of_the_calibration_data() -> None:
    g, x = graph(layers=1), tokens(8)
    built, report = mase.ptq(g, [{"activations": STATIC}, "rtn"], x)
    edge = report.edges[0]
    seen = [values(g, row)[edge.source] for row in x.split(1)]
    assert torch.equal(edge.params.scale, parse("int8").calibrate(torch.cat(seen)).scale)  # type: ignore[arg-type]
    assert built.quant[edge.name].scale is edge.params.scale


def test_keys_and_values_of_attention() -> None:
    built = mase.ptq(graph(layers=1), [{"activations": {**CACHE, "inputs": ""}}, "rtn"])[0]
    (node,) = (node for node in built.operators() if node.kind == "attention")
    query, key, value = node.inputs[:3]
    assert query.kind != "dynamic"
    assert (key.record.attrs["format"], key.record.attrs["axis"]) == ("int4g4", -2)
    assert (value.record.attrs["format"], value.record.attrs["axis"]) == ("int4c", -1)


def test_rows_do_not_touch_each_other_under_dynamic_scales() -> None:
    built = mase.ptq(graph(layers=2), [{"activations": {"keys": "int8c", "values": "int8c"}}, "rtn"])[0]
    x = tokens(3, seed=5)
    torch.testing.assert_close(built(x)[1:2], built(x[1:2]), atol=1e-5, rtol=1e-5)


def test_folds_come_first_and_pay() -> None:
    """Inputs with an outlier feature in eight bits: smoothquant before the rounding cuts the error."""
    g, x = graph(layers=2), tokens(16)
    key = next(key for key in g.tensors if key.endswith("blocks.0.norm1.weight") or key == "blocks.0.norm1.weight")
    scale = torch.ones(32)
    scale[5] = 80.0
    g = g.replace(tensors={key: g.tensors[key] * scale})
    steps: list[Any] = [{"activations": {**STATIC, "inputs": "int6"}}, {"rtn": {"format": "int8c"}}]
    plain, smooth = (mase.ptq(g, found, x)[0] for found in (steps, ["smoothquant", *steps]))
    y, held = tokens(8, seed=3), g(tokens(8, seed=3))
    assert float((smooth(y) - held).square().mean()) < 0.7 * float((plain(y) - held).square().mean())


def test_layers_without_the_step_read_float() -> None:
    recipe_of_down = [{"rtn": {"format": "int8c"}}]
    built, report = mase.ptq(graph(layers=1), [{"activations": {}}, "rtn"], overrides={"*.down": recipe_of_down})
    inputs = {row.path.rpartition(".")[2]: row.input for row in report.layers}
    assert inputs.pop("down") == "" and set(inputs.values()) == {"int8c"}
    assert built.node("blocks.0.feed.down").inputs[0].kind == "mul"


def test_methods_see_what_layers_read() -> None:
    """Statistics are those of rounded inputs; blockwise methods train through the rounding."""
    seen: dict[str, float] = {}

    class Peak(Quantizer):
        needs = ("peak",)

        def run(self, block: Block) -> None:
            for layer in block.layers(self.needs):
                seen[layer.path] = float(layer.seen.need("peak", "test").max())
                block.write(layer.path, Rtn().layer(layer))

        layer = Rtn.layer  # type: ignore[assignment]

    g, x = graph(layers=1), tokens(8)
    low = {"activations": {"inputs": "fixed8.6"}}  # from -2 to 127 / 64
    mase.ptq(g, [low, Peak()], x)
    assert max(seen.values()) == 2.0
    mase.ptq(g, [Peak()], x)
    assert max(seen.values()) > 2.5

    class Trained(Streams):
        def run(self, block: Block) -> None:
            runner = Runner(block, "test")
            kinds = [node.kind for node in runner.graph.operators()]
            assert kinds.count("dynamic") == 5  # a model of one block has its head in it
            weights = {layer.path: layer.weight.clone().requires_grad_() for layer in block.layers()}
            (inputs, target), *_ = runner.batch([0, 1])
            (runner.run(weights, inputs) - target).square().mean().backward()
            assert all(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in weights.values())
            for layer in block.layers():
                block.write(layer.path, Rtn().layer(layer))

    mase.ptq(g, [{"activations": {"inputs": "int4c"}}, Trained()], x)


@pytest.mark.filterwarnings("ignore:gptq. model")
def test_signround_answers_to_rounded_inputs() -> None:
    """Tuned on inputs of three bits, the block is nearer to the float one than when it is tuned on float inputs."""
    g, x = graph(layers=1), tokens(16)
    step = {"signround": {"format": "int3g16f", "iters": 40}}
    act = {"activations": {"inputs": "int3c"}}
    tuned, report = mase.ptq(g, [act, step], x)
    other = mase.ptq(g, [step], x)[1].packed
    blind = tuned.replace(tensors={f"{path}.weight": w.dense() for path, w in other.items()})
    blind = blind.replace({n.name: _bare(n) for n in blind.operators() if n.path in other})
    errors = [float((built(x) - g(x)).square().mean()) for built in (tuned, blind)]
    assert len(report.edges) == 5 and errors[0] < errors[1]


def _bare(node: Any) -> Any:
    from dataclasses import replace

    operands = {role: replace(kind, format=None) for role, kind in node.record.operands.items()}
    return replace(node.record, operands=operands)


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"), [("llama", CACHE), ("llama", STATIC), ("mixtral", {}), ("gpt2", {**STATIC, "keys": "int8"})]
)
def test_a_folder_computes_what_memory_does(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    model = folders.write(tmp_path / "s", kind)
    steps = [{"activations": fields}, {"rtn": {"format": "int8g16"}}]
    job = Job(tmp_path / "s", tmp_path / "q", Plan.of(steps), folders.tokens())
    report = quantize_folder(job)
    x = folders.tokens(2, seed=1)
    built = mase.ptq(trace_export(model, {"input_ids": x})[0], steps, folders.tokens())[0]
    assert torch.equal(load(tmp_path / "q")(x), built(x))
    assert check(tmp_path / "q").ok
    assert report.layers[0].input == fields.get("inputs", "int8c")
    with pytest.raises(ConfigError, match="has quantized activations; compressed-tensors gets weights alone"):
        export(tmp_path / "q", "compressed-tensors", tmp_path / "x")


def test_a_run_that_goes_on_gives_the_same_bytes(tmp_path: Path) -> None:
    folders.write(tmp_path / "s", "llama")
    steps = ["smoothquant", {"activations": STATIC}, {"rtn": {"format": "int8c"}}]
    plan = Plan.of(steps)
    quantize_folder(Job(tmp_path / "s", tmp_path / "whole", plan, folders.tokens()))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / "cut" / JOURNAL).write_text("".join(lines[:4]))
    (tmp_path / "cut" / FOUND).unlink()
    for left in sorted((tmp_path / "cut").glob("part-*"))[3:]:
        left.unlink()
    assert quantize_folder(Job(tmp_path / "s", tmp_path / "cut", plan, folders.tokens())).kept == 3
    for path in (tmp_path / "whole").iterdir():
        if path.name not in (JOURNAL, "report.json"):
            assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes(), path.name


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"inputs": "int8"}, "'int8' has a scale a tensor; allowed with dynamic scales are int8c"),
        ({"inputs": "nvfp4"}, "'nvfp4' has a scale a tensor"),
        ({"inputs": "int8g4", "scales": "static"}, "'int8g4' has scales of groups; allowed with static scales are"),
        ({"inputs": "binary", "scales": "static"}, "'binary' has parameters that extremes of the data do not give"),
        ({"values": "ternaryc", "scales": "static"}, "activations: values: 'ternaryc' has parameters that extremes"),
        ({"inputs": "nfq4", "scales": "static"}, "allowed with static scales are int8, int8c, nvfp4, and formats"),
        ({"keys": "nfq4s", "scales": "static"}, "activations: keys: 'nfq4s' has parameters that extremes"),
        ({"inputs": "wat"}, "activations: inputs: format 'wat'"),
        ({"inputs": "packed"}, "holds weights alone"),
        ({"inputs": ""}, "inputs, keys and values are all empty"),
        ({"scales": "sometimes"}, "activations: scales: found 'sometimes'"),
        ({"keys_along": "head"}, "activations: keys_along: found 'head'"),
        ({"keys": "int8c", "keys_along": "channel", "scales": "static", "inputs": ""}, "static scales are not"),
    ],
)
def test_fields_that_are_impossible(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recipe([{"activations": fields}])


@pytest.mark.parametrize("text", ["int8", "int8a", "int8a_qera", "int8c_brevitas", "nvfp4", "mxint8", "e4m3"])
def test_extremes_are_enough_for_what_static_scales_take(text: str) -> None:
    recipe([{"activations": {"inputs": text, "scales": "static"}}])
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    ends, fmt = torch.stack([x.amin(0), x.amax(0)]), parse(text)
    assert torch.equal(fmt.quantize(x, fmt.calibrate(ends)), fmt.quantize(x, fmt.calibrate(x)))


def test_a_fold_behind_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="smoothquant comes behind activations, which rounds what layers read"):
        Plan.of([{"activations": {}}, "smoothquant", "rtn"])
    with pytest.raises(ConfigError, match="a fold must come before `activations`"):  # LET folds
        mase.ptq(graph(layers=1), [{"activations": {}}, {"omniquant": {"let": True, "epochs": 1}}], tokens(8))


def test_attention_in_single_steps_has_no_cache() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2) + 1, -1) @ self.v(x)

    torch.manual_seed(0)
    g = mase.trace(Steps().eval(), torch.randn(2, 4, 8))
    with pytest.raises(ConfigError, match=r"block model has no attention that is one node \(sdpa\)"):
        mase.ptq(g, [{"activations": {"keys": "int8c"}}, "rtn"])


def test_static_scales_need_data() -> None:
    with pytest.raises(ConfigError, match="needs calibration data"):
        mase.ptq(graph(layers=1), [{"activations": STATIC}, "rtn"])


def test_edges_of_a_file_are_checked() -> None:
    good = Edge("a", (("b", 0),), "int8").told()
    assert read([good], "here")[0].readers == (("b", 0),)
    for change, says in [({"readers": []}, "has no readers"), ({"params": {"scale": "x"}}, "are not numbers")]:
        with pytest.raises(GraphError, match=says):
            read([{**good, **change}], "here")
    g = graph(layers=1)
    reader = next(node for node in g.operators() if node.inputs and node.inputs[0].name == "blocks_0_norm1").name
    assert inserted(g, [Edge("blocks_0_norm1", ((reader, 0),), "mxint8")]).node(f"{reader}_rounded")
    for found in [("head", 0), (reader, 9), (reader, -9), (reader, -1)]:
        with pytest.raises(GraphError, match="which is to be rounded"):
            inserted(g, [Edge("blocks_0_norm1", (found,), "mxint8")])
    with pytest.raises(GraphError, match="is rounded along axis 9; allowed is -3 to 2"):
        inserted(g, [Edge("blocks_0_norm1", ((reader, 0),), "mxint8", axis=9)])
