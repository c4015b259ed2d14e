"""ONNX and QONNX files compute what ONNX's reference evaluator computes, on our kinds and in our formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase import flow
from mase.errors import ConfigError, GraphError, MaseError, ToolError, UnsupportedOp
from mase.frontend import trace
from mase.frontend.onnx import OnnxModel, load
from mase.graph import Graph
from mase.models.base import MODELS

onnx = pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from onnx import TensorProto, helper  # noqa: E402  # after the check that the package is there

from tests.frontend.onnx_files import (  # noqa: E402
    BOUND,
    SCALARS,
    Arrays,
    Q,
    compare,
    file,
    judge,
    kinds,
    node,
    quant,
    rand,
)

# -- whole models ---------------------------------------------------------------------------------------------------


def mlp(folder: Path, shape: Sequence[int | str] = ("N", 4)) -> Path:
    nodes = [
        node("Gemm", ["x", "fc1.weight", "fc1.bias"], "a", transB=1, name="/fc1/Gemm"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "onnx::MatMul_7"], "c", name="/fc2/MatMul"),
        node("Add", ["fc2.bias", "c"], "y"),
    ]
    arrays = {"fc1.weight": rand(8, 4), "fc1.bias": rand(8), "onnx::MatMul_7": rand(8, 3), "fc2.bias": rand(3)}
    return file(folder, nodes, arrays, shape)


def test_an_mlp_becomes_linear_nodes_with_the_names_of_its_modules(tmp_path: Path) -> None:
    graph = compare(mlp(tmp_path), rand(5, 4))
    assert [(n.kind, n.path) for n in graph.operators()] == [
        ("linear", "fc1"),
        ("activation", "Relu_1"),
        ("linear", "fc2"),
    ]
    second = graph.node("fc2")
    assert set(second.record.operands) == {"weight", "bias"} and second.record.key("bias") == "fc2.bias"
    assert second.tensor("weight").shape == (3, 8) and second.record.attrs == {"transposed": True}
    assert second.record.source == "model.onnx:/fc2/MatMul"


def test_a_cnn_with_batch_norm_and_shape_arithmetic(tmp_path: Path) -> None:
    statistics = {f"bn.{name}": np.abs(rand(6, seed=i)) for i, name in enumerate(("weight", "bias", "mean", "var"))}
    nodes = [
        node("Conv", ["x", "conv.weight"], "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *statistics], "b"),
        node("Relu", ["b"], "c"),
        node("MaxPool", ["c"], "d", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["d"], "shape"),
        node("Gather", ["shape", "zero"], "batch"),
        node("Unsqueeze", ["batch", "axis"], "row"),
        node("Concat", ["row", "rest"], "target", axis=0),
        node("Reshape", ["d", "target"], "e"),
        node("Gemm", ["e", "head"], "y"),
    ]
    arrays = {"conv.weight": rand(6, 3, 3, 3), **statistics, "zero": np.int64(0), "axis": [0], "rest": [-1]}
    path = file(tmp_path, nodes, {**arrays, "head": rand(96, 3)}, ("N", 3, 8, 8))
    graph = compare(path, rand(3, 3, 8, 8))
    assert kinds(graph) == ["conv", "norm", "activation", "pool", "layout", "linear"]
    assert graph.node("bn").record.table == {"variance": "bn.var"}


def test_a_residual_block(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], "a", auto_pad="SAME_UPPER"),
        node("Relu", ["a"], "c"),
        node("Conv", ["c", "w", "b"], "d", pads=[1, 1, 1, 1]),
        node("Add", ["d", "x"], "e"),
        node("GlobalAveragePool", ["e"], "f"),
        node("Flatten", ["f"], "y"),
    ]
    graph = compare(file(tmp_path, nodes, {"w": rand(4, 4, 3, 3), "b": rand(4)}, ("N", 4, 5, 5)), rand(2, 4, 5, 5))
    assert kinds(graph) == ["conv", "activation", "conv", "add", "pool", "layout"]
    assert set(graph.tensors) == {"w", "b"}  # tied weights have one owner


def transformer(folder: Path) -> Path:
    size, heads, length = 8, 2, 6
    nodes = [
        node("Gather", ["token.weight", "x"], "e"),
        node("Add", ["e", "position"], "h"),
        node("LayerNormalization", ["h", "norm.weight", "norm.bias"], "n"),
    ]
    for role in "qkv":
        nodes += [
            node("MatMul", ["n", f"w{role}"], f"{role}0", name=f"/attention/{role}/MatMul"),
            node("Reshape", [f"{role}0", "split"], f"{role}1"),
            node("Transpose", [f"{role}1"], f"{role}2", perm=[0, 2, 3, 1] if role == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", ["q2", "k2"], "s"),
        node("Mul", ["s", "scale"], "scaled"),
        node("Add", ["scaled", "mask"], "masked"),
        node("Softmax", ["masked"], "p"),
        node("MatMul", ["p", "v2"], "o"),
        node("Transpose", ["o"], "o1", perm=[0, 2, 1, 3]),
        node("Reshape", ["o1", "join"], "o2"),
        node("MatMul", ["o2", "wo"], "o3"),
        node("Add", ["o3", "h"], "h1"),
        node("Gelu", ["h1"], "g"),
        node("ReduceMean", ["g", "axis"], "y", keepdims=0),
    ]
    mask = np.triu(np.full((length, length), -np.inf, np.float32), 1)
    arrays = {"token.weight": rand(10, size), "position": rand(1, length, size), "mask": mask, "axis": [1]}
    arrays |= {"norm.weight": rand(size), "norm.bias": rand(size), "scale": np.float32(0.5)}
    arrays |= {f"w{role}": rand(size, size) for role in "qkvo"} | {"split": [0, 0, heads, -1], "join": [0, 0, -1]}
    return file(folder, nodes, arrays, ("N", "sequence"), TensorProto.INT64)


def test_a_transformer_block(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 10, (3, 6))
    graph = compare(transformer(tmp_path), ids, sizes={"sequence": 6})
    found = kinds(graph)
    assert found[:3] == ["embedding", "add", "norm"] and found.count("linear") == 4 and found.count("matmul") == 2
    assert "opaque" not in found and graph.node("attention.q").kind == "linear"


def test_the_report_says_how_far_from_the_evaluator(tmp_path: Path) -> None:
    _, report = load(mlp(tmp_path))
    assert report.worst is not None and 0 <= report.worst < BOUND
    assert (len(report.lifted), report.opaque, report.refused) == (3, {}, {})
    _, unseen = load(mlp(tmp_path), compare=False)
    assert unseen.worst is None and "not compared" in str(unseen)


# -- each operator --------------------------------------------------------------------------------------------------

IMAGE, ROWS, PLAIN = ("N", 4, 6, 6), ("N", 5, 4), ("N", 4)
Case = tuple[Sequence[int | str], Sequence[Any], Arrays, str]
OPERATORS: dict[str, Case] = {
    "gemm scaled": (
        PLAIN,
        [node("Gemm", ["x", "w", "b"], alpha=0.5, beta=2.0)],
        {"w": rand(4, 3), "b": rand(3)},
        "linear",
    ),
    "gemm one bias": (PLAIN, [node("Gemm", ["x", "w", "b"])], {"w": rand(4, 3), "b": rand(1)}, "linear"),
    "matmul rows": (ROWS, [node("MatMul", ["x", "w"])], {"w": rand(4, 3)}, "linear"),
    "matmul left": (ROWS, [node("MatMul", ["w", "x"])], {"w": rand(3, 5)}, "matmul"),
    "matmul batched": (ROWS, [node("MatMul", ["x", "w"])], {"w": rand(1, 4, 3)}, "matmul"),
    "add scalar": (PLAIN, [node("Add", ["x", "c"])], {"c": np.float32(3)}, "add"),
    "sub from": (PLAIN, [node("Sub", ["c", "x"])], {"c": rand(4)}, "add"),
    "mul": (PLAIN, [node("Mul", ["x", "c"])], {"c": rand(4)}, "mul"),
    "div by": (PLAIN, [node("Div", ["c", "x"])], {"c": np.float32(3)}, "mul"),
    "sum": (PLAIN, [node("Sum", ["x", "c", "x"])], {"c": rand(4)}, "add"),
    "conv 1d": (ROWS, [node("Conv", ["x", "w"], dilations=[2], group=5)], {"w": rand(10, 1, 2)}, "conv"),
    "conv strided": (
        IMAGE,
        [node("Conv", ["x", "w", "b"], strides=[2, 1])],
        {"w": rand(3, 4, 3, 2), "b": rand(3)},
        "conv",
    ),
    "conv uneven": (IMAGE, [node("Conv", ["x", "w"], pads=[0, 1, 2, 1])], {"w": rand(3, 4, 3, 3)}, "conv"),
    "conv same lower": (
        IMAGE,
        [node("Conv", ["x", "w"], auto_pad="SAME_LOWER", strides=[2, 2])],
        {"w": rand(3, 4, 3, 3)},
        "conv",
    ),
    "conv transpose": (
        IMAGE,
        [node("ConvTranspose", ["x", "w", "b"], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        {"w": rand(4, 2, 3, 3), "b": rand(2)},
        "conv",
    ),
    "max pool": (IMAGE, [node("MaxPool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}, "pool"),
    "max pool uneven": (
        IMAGE,
        [node("MaxPool", ["x"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])],
        {},
        "pool",
    ),
    "average pool": (IMAGE, [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}, "pool"),
    "average pool counting": (
        IMAGE,
        [node("AveragePool", ["x"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)],
        {},
        "pool",
    ),
    "global max pool": (IMAGE, [node("GlobalMaxPool", ["x"])], {}, "pool"),
    "reduce sum": (IMAGE, [node("ReduceSum", ["x", "axes"])], {"axes": [-1, 2]}, "pool"),
    "reduce max": (IMAGE, [node("ReduceMax", ["x", "axes"], keepdims=0)], {"axes": [1]}, "pool"),
    "rms norm": (ROWS, [node("RMSNormalization", ["x", "w"])], {"w": rand(4)}, "norm"),
    "layer norm 2 axes": (
        ROWS,
        [node("LayerNormalization", ["x", "w"], axis=1, epsilon=1e-3)],
        {"w": rand(5, 4)},
        "norm",
    ),
    "group norm": (
        IMAGE,
        [node("GroupNormalization", ["x", "w", "b"], num_groups=2)],
        {"w": rand(4), "b": rand(4)},
        "norm",
    ),
    "instance norm": (IMAGE, [node("InstanceNormalization", ["x", "w", "b"])], {"w": rand(4), "b": rand(4)}, "norm"),
    "leaky relu": (PLAIN, [node("LeakyRelu", ["x"], alpha=0.2)], {}, "activation"),
    "elu": (PLAIN, [node("Elu", ["x"], alpha=0.5)], {}, "activation"),
    "celu": (PLAIN, [node("Celu", ["x"], alpha=0.5)], {}, "activation"),
    "prelu": (IMAGE, [node("PRelu", ["x", "w"])], {"w": rand(4, 1, 1)}, "activation"),
    "gelu tanh": (PLAIN, [node("Gelu", ["x"], approximate="tanh")], {}, "activation"),
    "hard sigmoid": (PLAIN, [node("HardSigmoid", ["x"], alpha=1 / 6)], {}, "activation"),
    "hard swish": (PLAIN, [node("HardSwish", ["x"])], {}, "activation"),
    "swish": (PLAIN, [node("Swish", ["x"])], {}, "activation"),
    "clip": (
        PLAIN,
        [node("Clip", ["x", "low", "high"])],
        {"low": np.float32(-0.5), "high": np.float32(0.5)},
        "activation",
    ),
    "clip 0 to 6": (
        PLAIN,
        [node("Clip", ["x", "low", "high"])],
        {"low": np.float32(0), "high": np.float32(6)},
        "activation",
    ),
    "clip below": (PLAIN, [node("Clip", ["x", "low"])], {"low": np.float32(0)}, "activation"),
    "square": (PLAIN, [node("Pow", ["x", "p"])], {"p": np.float32(2)}, "activation"),
    "cube": (PLAIN, [node("Pow", ["x", "p"])], {"p": np.float32(3)}, "activation"),
    "softmax": (ROWS, [node("Softmax", ["x"], axis=1)], {}, "softmax"),
    "log softmax": (ROWS, [node("LogSoftmax", ["x"])], {}, "softmax"),
    "attention": (IMAGE, [node("Attention", ["x", "x", "x"], is_causal=1)], {}, "attention"),
    "reshape heads": (
        ROWS,
        [node("Reshape", ["x", "t"], "a"), node("Reshape", ["a", "u"])],
        {"t": [-1, 4], "u": [-1, 10, 2]},
        "layout",
    ),
    "flatten": (
        IMAGE,
        [node("Flatten", ["x"], "a", axis=2), node("Reshape", ["a", "t"])],
        {"t": [-1, 4, 36]},
        "layout",
    ),
    "transpose": (ROWS, [node("Transpose", ["x"], perm=[0, 2, 1])], {}, "layout"),
    "concat": (ROWS, [node("Concat", ["x", "x"], axis=-1)], {}, "layout"),
    "slice": (
        IMAGE,
        [node("Slice", ["x", "s", "e", "a", "p"])],
        {"s": [1, -3], "e": [9, 5], "a": [2, 3], "p": [2, 1]},
        "layout",
    ),
    "squeeze": (
        ROWS,
        [node("Unsqueeze", ["x", "a"], "u"), node("Squeeze", ["u", "b"])],
        {"a": [1, 4], "b": [4]},
        "layout",
    ),
    "select": (ROWS, [node("Gather", ["x", "i"], axis=1)], {"i": np.int64(-1)}, "layout"),
    "gather": (ROWS, [node("Gather", ["x", "i"], axis=2)], {"i": [3, 0, -1]}, "layout"),
    "expand": (("N", 1, 4), [node("Expand", ["x", "t"])], {"t": [1, 3, 4]}, "layout"),
    "tile": (ROWS, [node("Tile", ["x", "t"])], {"t": [1, 2, 1]}, "layout"),
    "pad": (ROWS, [node("Pad", ["x", "p", "v"])], {"p": [0, 1, 0, 0, 0, 2], "v": np.float32(7)}, "layout"),
    "pad edge": (ROWS, [node("Pad", ["x", "p"], mode="edge")], {"p": [0, 0, 1, 0, 0, 2]}, "layout"),
    "cast": (PLAIN, [node("Cast", ["x"], to=TensorProto.DOUBLE)], {}, "layout"),
    "where": (PLAIN, [node("Where", ["c", "x", "v"])], {"c": np.array([1, 0, 1, 0], bool), "v": rand(4)}, "opaque"),
}
OPERATORS |= {
    name.lower(): (PLAIN, [node(name, ["x"])], {}, "activation")
    for name in (
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign",
        "Mish",
        "Exp",
        "Reciprocal",
        "Abs",
        "Neg",
        "Sin",
        "Cos",
        "Erf",
    )
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_what_the_evaluator_computes(name: str, tmp_path: Path) -> None:
    shape, nodes, arrays, kind = OPERATORS[name]
    path = file(tmp_path, nodes, arrays, shape, opset=24)
    x = rand(3, *(size for size in shape if isinstance(size, int)))
    assert kind in kinds(compare(path, x))


@pytest.mark.parametrize("name", ["Ceil", "Floor", "Round", "Sign", "Max", "Min", "Equal", "Greater", "LessOrEqual"])
def test_what_has_no_kind_runs_as_an_opaque_node(name: str, tmp_path: Path) -> None:
    pair = name not in ("Ceil", "Floor", "Round", "Sign")
    path = file(tmp_path, [node(name, ["x", "c"] if pair else ["x"])], {"c": rand(4)})
    assert kinds(compare(path, rand(3, 4)))[-1] == "opaque"
    assert load(path)[1].opaque == {f"{name}_0": f"{name} has no typed kind"}


def test_a_split_gives_slices(tmp_path: Path) -> None:
    nodes = [node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Mul", ["a", "b"])]
    assert kinds(compare(file(tmp_path, nodes, {}), rand(3, 4))) == ["layout", "layout", "mul"]


def test_a_logarithm_and_a_root(tmp_path: Path) -> None:
    nodes = [node("Abs", ["x"], "a"), node("Sqrt", ["a"], "b"), node("Log", ["b"])]
    assert kinds(compare(file(tmp_path, nodes, {}), rand(3, 4))) == ["activation"] * 3


def test_older_opsets_hold_axes_in_attributes(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", ["x"], "a", axes=[1]),
        node("Slice", ["a"], "b", starts=[1], ends=[3], axes=[2]),
        node("Squeeze", ["b"], "c", axes=[1]),
        node("Clip", ["c"], "d", min=0.0, max=6.0),
        node("ReduceMean", ["d"], "y", axes=[1]),
    ]
    assert kinds(compare(file(tmp_path, nodes, {}, opset=9), rand(3, 4))) == ["layout"] * 3 + ["activation", "pool"]


def test_a_file_written_with_one_batch_takes_any(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "t"], "a"), node("Softmax", ["a"])]
    graph, _ = load(file(tmp_path, nodes, {"t": [1, 2, 2]}, (1, 4)))
    assert graph(torch.zeros(5, 4)).shape == (5, 2, 2)
    assert graph(torch.zeros(1, 4)).shape == (1, 2, 2)


def test_a_row_for_each_sample_follows_the_batch(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], "s", end=1),
        node("Concat", ["s", "rest"], "t", axis=0),
        node("Expand", ["cls", "t"], "rows"),
        node("Concat", ["rows", "x"], "y", axis=1),
    ]
    path = file(tmp_path, nodes, {"cls": rand(1, 1, 4), "rest": [1, 4]}, ROWS)
    assert kinds(compare(path, rand(7, 5, 4))) == ["constant", "opaque", "layout"]


def test_several_inputs_and_outputs_go_by_name(tmp_path: Path) -> None:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("left", "right")]
    nodes = [node("Add", ["left", "right"], "sum"), node("Sub", ["left", "right"], "gap")]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("sum", "gap")]
    graph = helper.make_graph(nodes, "g", given, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), str(tmp_path / "m.onnx"))
    loaded, _ = load(tmp_path / "m.onnx")
    left, right = torch.randn(3, 4), torch.randn(3, 4)
    found = loaded.fields(right=right, left=left)
    assert torch.equal(found["sum"], left + right) and torch.equal(found["gap"], left - right)


def test_functions_of_the_file_are_put_in_place(tmp_path: Path) -> None:
    body = [node("Mul", ["u", "u"], "v"), node("Relu", ["v"], "w")]
    function = helper.make_function("own", "Block", ["u"], ["w"], body, [helper.make_opsetid("", 21)])
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    call = helper.make_node("Block", ["x"], ["y"], domain="own")
    graph = helper.make_graph([call], "g", given, [helper.make_empty_tensor_value_info("y")])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=imports), str(tmp_path / "m.onnx"))
    assert kinds(load(tmp_path / "m.onnx")[0]) == ["mul", "activation"]


def test_a_table_that_is_read_and_multiplied_by_has_one_owner(tmp_path: Path) -> None:
    nodes = [
        node("Gather", ["embed.weight", "x"], "e"),
        node("Identity", ["embed.weight"], "tied"),
        node("Transpose", ["tied"], "turned", perm=[1, 0]),
        node("MatMul", ["e", "turned"], "y", name="/head/MatMul"),
    ]
    path = file(tmp_path, nodes, {"embed.weight": rand(10, 4)}, ("N", 3), TensorProto.INT64)
    graph = compare(path, np.array([[1, 2, 9]]))
    assert list(graph.tensors) == ["embed.weight"]
    assert [n.record.key("weight") for n in graph.operators()] == ["embed.weight"] * 2
    assert graph.operators()[1].record.attrs == {}


def test_a_saved_graph_computes_the_same(tmp_path: Path) -> None:
    graph, _ = load(transformer(tmp_path), {"sequence": 6})
    graph.save(tmp_path / "saved")
    ids = torch.randint(0, 10, (2, 6))
    assert torch.equal(Graph.load(tmp_path / "saved")(ids), graph(ids))


# -- as a model -----------------------------------------------------------------------------------------------------


def test_a_file_is_a_model_that_trains_and_shares_its_weights(tmp_path: Path) -> None:
    model = MODELS["onnx"](path=str(mlp(tmp_path)))
    assert isinstance(model, OnnxModel)
    assert list(model.state_dict()) == ["onnx__MatMul_7_t", "fc1.weight", "fc1.bias", "fc2.bias"]
    x, y = torch.randn(32, 4), torch.randint(0, 3, (32,))
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    graph, _ = model.traced()
    assert torch.equal(graph(x), model(x))
    assert graph.tensors["fc1.weight"].data_ptr() == model.get_parameter("fc1.weight").data_ptr()
    fresh = OnnxModel(mlp(tmp_path))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))


def test_a_configuration_names_a_file_and_a_change_of_it_is_noticed(tmp_path: Path) -> None:
    config = {
        "model": {"name": "onnx", "options": {"path": "model.onnx"}},
        "data": {"name": "iris"},
        "quantize": {"default": {"weight": "int8", "activation": "fixed8.4"}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    x, found = torch.randn(3, 4), []
    for seed in (0, 1):
        weights = {"w": rand(3, 4, seed=seed), "b": rand(3)}
        path = file(tmp_path, [node("Gemm", ["x", "w", "b"], transB=1)], weights)
        graph = flow.upto(flow.open_run(tmp_path / "run.yaml", tmp_path / "run"), "trace").graph
        found.append(graph(x))
        np.testing.assert_allclose(found[-1].numpy(), judge(path, x.numpy()), rtol=1e-5)
    assert not torch.equal(*found)


def test_the_front_door_takes_a_path_or_a_model(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    graph, report = trace(mlp(tmp_path))
    again, _ = trace(OnnxModel(mlp(tmp_path)), x)
    assert len(report.lifted) == 3 and torch.equal(graph(x), again(x))


def test_statistics_and_masks_are_no_parameters(tmp_path: Path) -> None:
    model = OnnxModel(transformer(tmp_path), {"sequence": 6})
    assert "mask" in dict(model.named_buffers()) and "wq_t" in dict(model.named_parameters())


def test_names_that_python_has_already_are_kept_apart(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "float.weight", "forward"])]
    model = OnnxModel(file(tmp_path, nodes, {"float.weight": rand(4, 3), "forward": rand(3)}))
    assert set(model.state_dict()) == {"float_.weight_t", "forward_"}
    assert model(torch.zeros(2, 4)).shape == (2, 3)


# -- what is refused ------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[Sequence[Any], Arrays, type[MaseError], str]] = {
    "operator": (
        [node("NonZero", ["x"], name="/a/NonZero")],
        {},
        UnsupportedOp,
        "node '/a/NonZero' (NonZero): is not supported",
    ),
    "other domain": (
        [node("Gemm", ["x", "x"], domain="own")],
        {},
        UnsupportedOp,
        "(own.Gemm): the domain 'own' is not supported; allowed are ONNX's own and qonnx.custom_op.general",
    ),
    "no producer": ([node("Relu", ["z"])], {}, GraphError, "reads 'z', which nothing before it produces"),
    "computed weight": (
        [node("Conv", ["x", "x"])],
        {},
        UnsupportedOp,
        "input 1 ('x') is computed; allowed is a constant",
    ),
    "axis 0 reduced": ([node("ReduceSum", ["x", "a"])], {"a": [0]}, GraphError, "axis 0 is not a batch"),
    "axis 0 sorted": ([node("Softmax", ["x"], axis=0)], {}, GraphError, "depends on its batch"),
    "batch norm": (
        [node("BatchNormalization", ["x", "v", "v", "v", "v"], training_mode=1)],
        {"v": rand(4)},
        UnsupportedOp,
        "training mode",
    ),
    "reverse": (
        [node("Slice", ["x", "s", "e", "a", "p"])],
        {"s": [-1], "e": [-9], "a": [1], "p": [-1]},
        UnsupportedOp,
        "steps by -1",
    ),
    "shapes": ([node("Gemm", ["x", "w"])], {"w": rand(3, 3)}, UnsupportedOp, "cannot run"),
    "rounding": (
        [quant("x", "s", "y", rounding_mode="UP")],
        SCALARS,
        UnsupportedOp,
        "rounding_mode UP; allowed: ROUND",
    ),
    "unsigned narrow": ([quant("x", "s", "y", signed=0, narrow=1)], SCALARS, UnsupportedOp, "unsigned narrow"),
    "scale": ([quant("x", "s", "y")], {**SCALARS, "s": np.float32(-1)}, UnsupportedOp, "a scale that is not positive"),
    "zero": ([quant("x", "s", "y")], {**SCALARS, "zero": np.float32(0.5)}, UnsupportedOp, "not a whole number"),
    "bits": (
        [quant("x", "r", "y")],
        {**SCALARS, "bits": np.float32(17)},
        UnsupportedOp,
        "no format that is exactly the same",
    ),
    "trunc": (
        [node("Trunc", ["x", "s", "zero", "bits", "four"], domain=Q)],
        SCALARS,
        UnsupportedOp,
        "only behind a quantiser",
    ),
    "other inverse": (
        [node("QuantizeLinear", ["x", "s"], "a"), node("DequantizeLinear", ["a", "t"])],
        SCALARS,
        UnsupportedOp,
        "not the inverse",
    ),
    "blocks": ([node("QuantizeLinear", ["x", "s"], block_size=2)], SCALARS, UnsupportedOp, "block_size 2"),
    "codes": (
        [node("QuantizeLinear", ["x", "s"], "a"), node("Add", ["a", "a"])],
        SCALARS,
        UnsupportedOp,
        "computes on the codes",
    ),
    "codes out": ([node("QuantizeLinear", ["x", "s"])], SCALARS, UnsupportedOp, "output 'y' holds the codes"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_has_no_counterpart_names_the_node(name: str, tmp_path: Path) -> None:
    nodes, arrays, error, text = ERRORS[name]
    with pytest.raises(error) as caught:
        load(file(tmp_path, nodes, arrays))
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_an_open_axis_asks_for_its_size(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"input 'x': axis 1 \(sequence\) is open; give sizes, such as \{'sequence': 16\}"
    ):
        load(transformer(tmp_path))


def test_a_damaged_or_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    path = mlp(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GraphError, match=r"model\.onnx: this file is damaged, or is not an ONNX file"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(GraphError, match="has no outputs or no opset"):
        load(path)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.onnx")


def test_a_graph_that_differs_from_the_evaluator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mase.frontend import onnx_nodes

    monkeypatch.setitem(onnx_nodes.ACTIVATIONS, "Relu", ("tanh", {}))  # type: ignore[arg-type]  # a Mapping that is a dict
    with pytest.raises(GraphError, match="differs from the reference evaluator by"):
        load(mlp(tmp_path))


def test_a_file_that_the_evaluator_cannot_run_is_told_as_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise NotImplementedError("no such\noperator")

    monkeypatch.setattr("onnx.reference.ReferenceEvaluator.run", fails)
    assert load(mlp(tmp_path))[1].notes == ("not compared with ONNX's reference evaluator: no such operator",)


def test_infinities_and_nan_in_the_same_places_are_no_difference(tmp_path: Path) -> None:
    nodes = [node("Log", ["x"], "a"), node("Add", ["a", "c"])]
    assert load(file(tmp_path, nodes, {"c": np.array([1, np.inf, 2, -np.inf], np.float32)}))[1].worst < BOUND


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ToolError, match=r"^onnx is not installed; pip install mase-dse\[onnx\]$"):
        load(tmp_path / "m.onnx")


def test_files_before_opset_7_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOp, match="opset 6; allowed is 7 or later"):
        load(file(tmp_path, [node("Relu", ["x"])], {}, opset=6))


def test_nan_among_the_weights_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Add", ["x", "w"])], {"w": np.full((4,), np.nan, np.float32)})
    with pytest.raises(GraphError, match="tensor 'w': holds NaN"):
        load(path)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"lenght": 3}, "no open axis 'lenght'; did you mean length"),
        ({"length": 0}, "length is 0; allowed is 1"),
        ({"N": 3}, "'N'"),
    ],
)
def test_sizes_are_of_open_axes_and_positive(sizes: dict[str, int], text: str, tmp_path: Path) -> None:
    path = file(tmp_path, [node("Relu", ["x"])], {}, ("N", "length"))
    with pytest.raises(ConfigError, match=text):
        load(path, sizes)
