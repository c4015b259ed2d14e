"""Whatever an ONNX node says is read or refused by name; nothing is drawn while a file is read; types stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase.errors import UnsupportedOp
from mase.frontend.onnx import load

onnx = pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from onnx import TensorProto, helper  # noqa: E402  # after the check that the package is there

from tests.frontend.onnx_files import SCALARS, Arrays, Q, compare, file, judge, node, quant, rand  # noqa: E402

IMAGE = ("N", 2, 6, 6)
ONES = {name: np.ones(2, np.float32) for name in ("s", "b", "m", "v")}
Case = tuple[Sequence[Any], Arrays, str]
UNREAD: dict[str, Case] = {
    "window": ([node("Attention", ["x", "x", "x"], left_window_size=1)], {}, "left_window_size is 1, .* allowed is -1"),
    "precision": ([node("Attention", ["x", "x", "x"], softmax_precision=10)], {}, "softmax_precision is 10"),
    "heads": ([node("Attention", ["x", "x", "x"], q_num_heads=6)], {}, "q_num_heads is 6; the input has 2"),
    "kernel": ([node("Conv", ["x", "w"], kernel_shape=[2, 2])], {"w": rand(3, 2, 3, 3)}, r"kernel_shape is \[2, 2\]"),
    "statistics": ([node("RMSNormalization", ["x", "w"], stash_type=10)], {"w": rand(6)}, "stash_type is 10"),
    "gelu": ([node("Gelu", ["x"], approximate="sigmoid")], {}, "approximate is sigmoid; allowed are none and tanh"),
    "float8": ([node("Cast", ["x"], to=TensorProto.DOUBLE, saturate=0)], {}, "saturate is 0, .* allowed is 1"),
    "of Quant": ([quant("x", "s", "y", group=4)], SCALARS, "group is 4, .* allowed is without it"),
    "of BipolarQuant": ([node("BipolarQuant", ["x", "s"], domain=Q, narrow=1)], SCALARS, "narrow is 1"),
    "unknown": ([node("Relu", ["x"], slope=0.5)], {}, "slope"),
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("compared", [True, False])
def test_an_attribute_that_is_not_read_is_refused_by_name(name: str, compared: bool, tmp_path: Path) -> None:
    nodes, arrays, text = UNREAD[name]
    with pytest.raises(UnsupportedOp, match=text):
        load(file(tmp_path, nodes, arrays, IMAGE, opset=25), compare=compared)


READ: dict[str, tuple[Sequence[Any], Arrays]] = {
    "defaults": ([node("Attention", ["x", "x", "x"], left_window_size=-1, softcap=0.0)], {}),
    "momentum": ([node("BatchNormalization", ["x", "s", "b", "m", "v"], momentum=0.5)], ONES),
    "kernel": ([node("Conv", ["x", "w"], kernel_shape=[3, 3], group=1)], {"w": rand(3, 2, 3, 3)}),
    "no indices": ([node("MaxPool", ["x"], kernel_shape=[2, 2], storage_order=1)], {}),
    "axes given": ([node("ReduceSum", ["x", "a"], noop_with_empty_axes=1, keepdims=0)], {"a": [1]}),
    "one scale": (
        [node("QuantizeLinear", ["x", "s"], "q", axis=3), node("DequantizeLinear", ["q", "s"], axis=3)],
        SCALARS,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_an_attribute_without_effect_is_taken(name: str, tmp_path: Path) -> None:
    nodes, arrays = READ[name]
    compare(file(tmp_path, nodes, arrays, IMAGE, opset=25), rand(3, 2, 6, 6))


@pytest.mark.parametrize(
    "drawn",
    [
        node("RandomNormal", [], "r", shape=[4]),
        node("RandomNormal", [], "r", shape=[4], seed=1.0),
        node("RandomUniform", [], "r", shape=[4]),
        node("RandomNormalLike", ["c"], "r"),
        node("RandomUniformLike", ["c"], "r"),
        node("Bernoulli", ["c"], "r"),
        node("RandomNormalLike", ["x"], "r"),
        node("Dropout", ["c", "half", "yes"], "r"),
        node("Dropout", ["x", "half", "yes"], "r"),
    ],
    ids=lambda drawn: f"{drawn.op_type} {list(drawn.input)}",
)
def test_nothing_is_drawn_while_a_file_is_read(drawn: Any, tmp_path: Path) -> None:
    arrays = {"c": np.full(4, 0.5, np.float32), "half": np.float32(0.5), "yes": np.bool_(1)}
    path = file(tmp_path, [drawn, node("Add", ["x", "r"])], arrays)
    with pytest.raises(UnsupportedOp, match=r"draws random numbers|training mode"):
        load(path, compare=False)


def test_a_branch_that_draws_is_refused(tmp_path: Path) -> None:
    outputs = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])]
    body = helper.make_graph([node("RandomNormal", [], "r", shape=[4])], "body", [], outputs)
    nodes = [node("If", ["yes"], "r", then_branch=body, else_branch=body), node("Add", ["x", "r"])]
    with pytest.raises(UnsupportedOp, match="RandomNormal draws random numbers"):
        load(file(tmp_path, nodes, {"yes": np.bool_(1)}))


def test_a_dropout_that_keeps_all_is_taken(tmp_path: Path) -> None:
    nodes = [node("Dropout", ["x", "half", "no"], "a", seed=3), node("Relu", ["a"])]
    compare(file(tmp_path, nodes, {"half": np.float32(0.5), "no": np.bool_(0)}), rand(3, 4))


# -- whole numbers --------------------------------------------------------------------------------------------------

WHOLE: dict[str, tuple[Sequence[Any], dict[str, Any]]] = {
    "clip": ([node("Clip", ["x", "low", "high"])], {"low": -3, "high": 16777217}),
    "clip 0 to 6": ([node("Clip", ["x", "low", "high"])], {"low": 0, "high": 6}),
    "clip below": ([node("Clip", ["x", "low"])], {"low": 0}),
    "cube": ([node("Pow", ["x", "p"])], {"p": 3}),
    "square": ([node("Pow", ["x", "p"])], {"p": 2}),
    "add": ([node("Add", ["x", "c"])], {"c": 16777217}),
    "add a row": ([node("Add", ["x", "c"])], {"c": [1, 2, 3, 16777217]}),
    "sub from": ([node("Sub", ["c", "x"])], {"c": 16777217}),
    "mul": ([node("Mul", ["x", "c"])], {"c": 16777217}),
    "sum": ([node("Sum", ["x", "x"], "a"), node("Add", ["a", "c"])], {"c": 1}),
    "abs": ([node("Abs", ["x"])], {}),
    "neg": ([node("Neg", ["x"])], {}),
    "relu": ([node("Relu", ["x"])], {}),
    "sign": ([node("Sign", ["x"])], {}),
    "max": ([node("Max", ["x", "c"])], {"c": [16777217]}),
    "reduce sum": ([node("ReduceSum", ["x", "axes"])], {"axes": np.int64([1])}),
    "reduce max": ([node("ReduceMax", ["x", "axes"])], {"axes": np.int64([1])}),
    "matmul": ([node("MatMul", ["x", "w"])], {"w": [[1, 2], [3, 4], [5, 16777217], [7, 8]]}),
}


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_stay_whole(name: str, kind: str, tmp_path: Path) -> None:
    nodes, constants = WHOLE[name]
    arrays = {
        key: value if isinstance(value, np.ndarray) else np.array(value, kind) for key, value in constants.items()
    }
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    path = file(tmp_path, nodes, arrays, ("N", 4), number)
    x = np.array([[-9, 0, 5, 1001], [2**30, 16777217, -1, 16777219], [7, 6, -3, 65537]], kind)
    with np.errstate(over="ignore"):
        want = judge(path, x)
    got = load(path)[0](torch.from_numpy(x)).numpy()
    assert got.dtype == want.dtype == np.dtype(kind) and np.array_equal(got, want)


@pytest.mark.parametrize(
    ("nodes", "constants", "text"),
    [
        ([node("Pow", ["x", "p"])], {"p": np.float32(0.5)}, "to the power 0.5; allowed are whole exponents"),
        ([node("Pow", ["x", "p"])], {"p": np.int32(-1)}, "cannot run"),
        ([node("Div", ["x", "p"])], {"p": np.int32(3)}, "divides whole numbers"),
        ([node("ReduceMean", ["x", "p"])], {"p": np.int64([1])}, "cannot run"),
    ],
)
def test_arithmetic_that_would_leave_whole_numbers_is_refused(
    nodes: Sequence[Any], constants: Arrays, text: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOp, match=text):
        load(file(tmp_path, nodes, constants, ("N", 4), TensorProto.INT32))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 21])
@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9}])
def test_batch_norm_of_every_opset_is_compared(opset: int, momentum: dict[str, float], tmp_path: Path) -> None:
    arrays = {name: np.abs(rand(4, seed=seed)) for seed, name in enumerate(("s", "b", "m", "v"))}
    path = file(tmp_path, [node("BatchNormalization", ["x", *arrays], epsilon=1e-3, **momentum)], arrays, opset=opset)
    graph, report = load(path)
    assert report.worst is not None and report.worst < 1e-6
    x = rand(5, 4)
    want = (x - arrays["m"]) / np.sqrt(arrays["v"] + 1e-3) * arrays["s"] + arrays["b"]
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, rtol=1e-5, atol=1e-6)
