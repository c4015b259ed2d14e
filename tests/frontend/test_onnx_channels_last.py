"""QONNX's domain for channels last: the same as ONNX's operators between two turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase.errors import GraphError, UnsupportedOp
from mase.frontend.onnx import load

pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from mase.frontend import onnx_judge  # after the check that the package is there
from mase.frontend.onnx_rules import LAST
from tests.frontend.onnx_files import Arrays, file, formats, judge, kinds, node, quant, rand

WINDOW = {"strides": [1, 2], "pads": [1, 0, 1, 0]}
V = {name: np.abs(rand(4, seed=seed)) for seed, name in enumerate("wbmv")}
CASES: dict[str, tuple[str, list[str], Arrays, dict[str, Any]]] = {
    "Conv": ("Conv", ["k", "b"], {"k": rand(4, 2, 3, 3), "b": V["b"]}, {**WINDOW, "group": 2}),
    "MaxPool": ("MaxPool", [], {}, {**WINDOW, "kernel_shape": [2, 3]}),
    "AveragePool": ("AveragePool", [], {}, {**WINDOW, "kernel_shape": [2, 3]}),
    "BatchNormalization": ("BatchNormalization", ["w", "b", "m", "v"], V, {"epsilon": 1e-3, "momentum": 0.8}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", [11, 21])
def test_a_node_is_the_operator_between_two_turns(name: str, opset: int, tmp_path: Path) -> None:
    kind, inputs, arrays, attrs = CASES[name]
    x = rand(3, 5, 6, 4)
    turned = [
        node("Transpose", ["x"], "a", perm=[0, 3, 1, 2]),
        node(kind, ["a", *inputs], "c", **attrs),
        node("Transpose", ["c"], perm=[0, 2, 3, 1]),
    ]
    want = judge(file(tmp_path, turned, arrays, ("N", 5, 6, 4), opset=21), x)
    last = {key: np.moveaxis(array, 1, -1) if key == "k" else array for key, array in arrays.items()}
    path = file(tmp_path, [node(kind, ["x", *inputs], domain=LAST, **attrs)], last, ("N", 5, 6, 4), opset=opset)
    graph, report = load(path)
    got = graph(torch.from_numpy(x)).numpy()
    assert got.shape == want.shape and report.worst is not None
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


def test_turns_that_undo_each_other_are_left_out(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["x"], "a", perm=[0, 2, 3, 1]),
        node("Conv", ["a", "k"], "c", domain=LAST),
        node("MaxPool", ["c"], "d", domain=LAST, kernel_shape=[2, 2]),
        node("Transpose", ["d"], perm=[0, 3, 1, 2]),
    ]
    graph, _ = load(file(tmp_path, nodes, {"k": rand(2, 3, 3, 4)}, ("N", 4, 6, 6)))
    assert kinds(graph) == ["conv", "pool"]


def test_a_weight_keeps_its_scale_for_each_output(tmp_path: Path) -> None:
    arrays = {"zero": np.float32(0), "bits": np.float32(4), "k": rand(3, 2, 2, 4)}
    scales = np.array([0.11, 0.23, 0.31], np.float32)
    nodes = [
        quant("k", "s", "q", narrow=1),
        node("Conv", ["x", "q"], domain=LAST, name="c"),
    ]
    graph, _ = load(file(tmp_path, nodes, {**arrays, "s": scales.reshape(3, 1, 1, 1)}, ("N", 4, 4, 4)))
    x = rand(2, 4, 4, 4)
    weight = np.clip(np.round(arrays["k"] / scales.reshape(3, 1, 1, 1)), -7, 7) * scales.reshape(3, 1, 1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))  # [n, h, w, channels, 2, 2]
    want = np.einsum("nhwcij,oijc->nhwo", windows, weight)
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, rtol=0, atol=1e-5)
    assert formats(graph) == {"c.weight": "int4c_fp32"}


def test_the_judge_has_its_own_reading_of_the_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, [node("Conv", ["x", "k"], domain=LAST)], {"k": rand(2, 3, 3, 4)}, ("N", 6, 6, 4))
    assert load(path)[1].worst is not None
    found = onnx_judge.channels_last
    monkeypatch.setattr(onnx_judge, "channels_last", lambda *given: 2 * found(*given))
    with pytest.raises(GraphError, match="differs from the reference evaluator by"):
        load(path)


@pytest.mark.parametrize(
    ("kind", "shape", "kernel", "text"),
    [
        ("Conv", ("N", 4), (2, 3, 3, 4), r"\(qonnx.custom_op.channels_last.Conv\): has inputs of \[2, 4\] axes"),
        ("Conv", ("N", 6, 6, 4), (2, 3, 4), r"has inputs of \[4, 3\] axes; allowed are 3 or more"),
        ("MaxPool", ("N", 6, 6, 4), (1,), "breaks ONNX's rules: .*input size 2"),
        ("Resize", ("N", 6, 6, 4), (1,), "channels_last.Resize.*is not supported; allowed: AveragePool, BatchNorm"),
    ],
)
def test_what_does_not_fit_names_the_domain(
    kind: str, shape: tuple[Any, ...], kernel: tuple[int, ...], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedOp, match=text):
        load(file(tmp_path, [node(kind, ["x", "k"], domain=LAST)], {"k": rand(*kernel)}, shape))
