"""Quantisers of ONNX and QONNX files become formats that give the same numbers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mase
from mase.errors import GraphError
from mase.formats.fixed import Fixed
from mase.frontend.onnx import load
from mase.interpreter import is_exact
from passes.fuse import fuse

pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from tests.frontend.onnx_files import (  # after the check that the package is there
    SCALARS,
    Q,
    compare,
    file,
    formats,
    judge,
    kinds,
    node,
    quant,
    rand,
)


def test_a_qonnx_mlp_on_powers_of_two_is_exact_and_equal_bit_for_bit(tmp_path: Path) -> None:
    nodes = [
        quant("x", "s", "xq"),
        quant("fc1.weight", "t", "w1", narrow=1),
        node("Gemm", ["xq", "w1"], "a", transB=1),
        quant("a", "s", "aq"),
        node("Relu", ["aq"], "b"),
        quant("b", "s", "bq", signed=0),
        quant("fc2.weight", "t", "w2", bits="four"),
        node("Gemm", ["bq", "w2"], "c", transB=1),
        quant("c", "s", "y"),
    ]
    path = file(tmp_path, nodes, {**SCALARS, "fc1.weight": rand(8, 4), "fc2.weight": rand(3, 8)})
    x = rand(50, 4)
    graph = compare(path, x)
    assert formats(graph) == {
        "x": "fixed8.4",
        "fc1.weight": "int8p",
        "fc1": "fixed8.4",
        "Relu_4": "ufixed8.4",
        "fc2.weight": "fixed4.6",
        "fc2": "fixed8.4",
    }
    assert kinds(graph) == ["linear", "activation", "linear"] and all(is_exact(n) for n in graph.operators())
    assert np.array_equal(graph(torch.from_numpy(x)).numpy(), judge(path, x))  # every number is exact in float32


@pytest.mark.sim
def test_a_qonnx_file_becomes_hardware_with_the_same_numbers(tmp_path: Path) -> None:
    nodes = [
        quant("x", "s", "xq"),
        quant("fc1.weight", "t", "w1", narrow=1),
        node("Gemm", ["xq", "w1", "fc1.bias"], "a", transB=1),
        node("Relu", ["a"], "b"),
        quant("b", "s", "bq", signed=0),
        quant("fc2.weight", "t", "w2", bits="four"),
        node("Gemm", ["bq", "w2"], "c", transB=1),
        quant("c", "s", "y"),
    ]
    arrays = {**SCALARS, "fc1.weight": rand(8, 4), "fc1.bias": np.round(rand(8) * 64) / 64, "fc2.weight": rand(3, 8)}
    path, x = file(tmp_path, nodes, arrays), rand(20, 4)
    graph, _ = fuse(load(path)[0])
    assert kinds(graph) == ["linear", "linear"] and all(is_exact(n) for n in graph.operators())
    design = mase.emit(graph, tmp_path / "design")
    found = mase.simulate(design, torch.from_numpy(x)).output
    assert np.array_equal(found.numpy(), judge(path, x))


@pytest.mark.parametrize(
    ("attrs", "scale", "zero", "expected"),
    [
        ({"narrow": 1}, 0.0371, 0, "int8_fp32"),
        ({}, 0.0371, 0, "int8f_fp32"),
        ({}, 0.75, 0, "int8f"),
        ({"signed": 0}, 0.0371, 4, "int8a_fp32"),
        ({"signed": 0}, 0.0371, 3, "int8a_fp32_qera"),
        ({}, 0.0371, -6, "int8a_fp32"),
        ({}, 0.0371, -5, "int8a_fp32_qera"),
        ({"rounding_mode": "FLOOR"}, 0.25, 0, "fixed8.2_floor"),
        ({"rounding_mode": "CEIL"}, 0.25, 0, "fixed8.2_ceil"),
        ({"rounding_mode": "DOWN"}, 0.25, 0, "fixed8.2_zero"),
        ({"rounding_mode": "HALF_UP"}, 0.25, 0, "fixed8.2_away"),
        ({"signed": 0}, 4.0, 0, "ufixed8.-2"),
    ],
)
def test_a_quantiser_is_the_format_that_says_the_same(
    attrs: dict[str, Any], scale: float, zero: int, expected: str, tmp_path: Path
) -> None:
    arrays = {**SCALARS, "s": np.float32(scale), "zero": np.float32(zero)}
    path = file(tmp_path, [node("Neg", ["x"], "a"), quant("a", "s", "y", **attrs)], arrays)
    graph = compare(path, 9 * rand(400, 4))
    assert formats(graph) == {"Neg_0": expected} and kinds(graph) == ["activation"]


def test_a_scale_a_channel_follows_a_transposed_weight(tmp_path: Path) -> None:
    nodes = [quant("w", "r", "wq", narrow=1), node("MatMul", ["x", "wq"])]
    path = file(tmp_path, nodes, {**SCALARS, "w": rand(4, 3), "r": 0.01 + rand(1, 3) ** 2})
    graph = compare(path, rand(20, 4))
    assert formats(graph) == {"MatMul_1.weight": "int8c_fp32"}
    assert graph.params(graph.node("MatMul_1").record.key("weight")).axis == -2
    turned = [quant("w", "r", "wq", narrow=1), node("Transpose", ["wq"], "v"), node("Gemm", ["x", "v"])]
    path = file(tmp_path, turned, {**SCALARS, "w": rand(3, 4), "r": 0.01 + rand(3, 1) ** 2})
    assert formats(compare(path, rand(20, 4))) == {"Gemm_2.weight": "int8c_fp32"}


def test_bipolar_quantisers_are_binary(tmp_path: Path) -> None:
    nodes = [
        node("BipolarQuant", ["x", "r"], "a", domain=Q),
        node("BipolarQuant", ["w", "t"], "wq", domain=Q),
        node("MatMul", ["a", "wq"]),
    ]
    w, x = rand(4, 3), rand(20, 4)
    graph, _ = load(file(tmp_path, nodes, {**SCALARS, "w": w}))
    assert formats(graph) == {"x": "binary", "MatMul_2.weight": "binary"}
    want = np.where(x >= 0, SCALARS["r"], -SCALARS["r"]) @ np.where(w >= 0, SCALARS["t"], -SCALARS["t"])
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, rtol=1e-6, atol=1e-7)


def test_one_signed_bit_holds_minus_one_and_zero(tmp_path: Path) -> None:
    nodes = [quant("w", "t", "wq", bits="one"), node("MatMul", ["x", "wq"])]
    path = file(tmp_path, nodes, {**SCALARS, "one": np.float32(1), "w": rand(4, 3)})
    assert formats(compare(path, rand(20, 4))) == {"MatMul_1.weight": "fixed1.6"}


def test_trunc_drops_low_bits_of_the_same_grid(tmp_path: Path) -> None:
    x = rand(100, 4)
    code = np.clip(np.round(x / 2**-4), -128, 127)
    first = [quant("x", "s", "a"), node("Trunc", ["a", "s", "zero", "bits", "four"], domain=Q, rounding_mode="FLOOR")]
    graph, _ = load(file(tmp_path, first, SCALARS))
    assert np.array_equal(graph(torch.from_numpy(x)).numpy(), np.floor(code / 16) * 2**-4)
    second = [node("Trunc", ["a", "s", "zero", "bits", "one", "four"], domain=Q, rounding_mode="ROUND")]
    graph, _ = load(file(tmp_path, [first[0], *second], {**SCALARS, "one": np.float32(1)}))
    assert np.array_equal(graph(torch.from_numpy(x)).numpy(), np.round(code / 16))


def qdq(folder: Path, dtype: str = "int8", zero: int = 0, scale: float = 0.0371) -> Path:
    """Write a file with QuantizeLinear and DequantizeLinear around a layer, and moves between them."""
    point = np.dtype(dtype).type(zero)
    rng = np.random.default_rng(1)
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], "xi"),
        node("Reshape", ["xi", "shape"], "xr"),
        node("DequantizeLinear", ["xr", "sx", "zx"], "xf"),
        node("DequantizeLinear", ["w8", "sw"], "w", axis=0),
        node("DequantizeLinear", ["b32", "sb"], "b", axis=0),
        node("Gemm", ["xf", "w", "b"], "a", transB=1),
        node("QuantizeLinear", ["a", "sx", "zx"], "ai", name="/last"),
        node("DequantizeLinear", ["ai", "sx", "zx"], "y"),
    ]
    arrays = {"sx": np.float32(scale), "zx": point, "shape": [-1, 4], "sw": np.float32(0.003) + rand(3) ** 2 / 99}
    arrays |= {"w8": rng.integers(-127, 128, (3, 4), np.int8), "b32": rng.integers(-999, 999, 3, np.int32)}
    return file(folder, nodes, {**arrays, "sb": np.full(3, 1e-3, np.float32)}, ("N", 2, 2))


@pytest.mark.parametrize(
    ("dtype", "zero", "scale", "expected"),
    [
        ("uint8", 130, 0.0371, "int8a_fp32"),
        ("int8", -3, 0.0371, "int8a_fp32"),
        ("int8", 0, 0.0371, "int8f_fp32"),
        ("int8", 0, 0.03125, "fixed8.5"),
        ("uint8", 0, 0.03125, "ufixed8.5"),
    ],
)
def test_quantize_and_dequantize_pairs_are_formats(
    dtype: str, zero: int, scale: float, expected: str, tmp_path: Path
) -> None:
    path = qdq(tmp_path, dtype, zero, scale)
    graph, report = load(path)
    x = rand(40, 2, 2)
    step = np.abs(graph(torch.from_numpy(x)).numpy() - judge(path, x)) / scale
    assert float((step > 1e-3).mean()) < 0.02 and float(step.max()) < 1.001  # a sum beside a tie may round elsewhere
    found = formats(graph)
    assert found["x"] == expected and found["Gemm_5.weight"] == "int8c_fp32"
    assert found["Gemm_5"] == expected and not report.refused


def test_a_quantiser_that_hardware_cannot_merge_stays_a_node_and_says_why(tmp_path: Path) -> None:
    nodes = [
        quant("x", "r", "xq", signed=0),
        quant("w", "r", "wq", narrow=1),
        node("MatMul", ["xq", "wq"], "a"),
        quant("a", "each", "y"),
    ]
    each = np.array([[0.1, 0.2, 0.3]], np.float32)
    path = file(tmp_path, nodes, {**SCALARS, "w": rand(4, 3), "each": each})
    graph, report = load(path)
    assert kinds(graph) == ["linear", "requantize"]
    assert "has a scale a channel; activations take one scale a tensor" in report.refused["quant_y"]
    x = rand(30, 4)
    assert np.array_equal(graph(torch.from_numpy(x)).float().numpy(), judge(path, x))


@pytest.mark.parametrize("opset", [13, 21])
def test_a_weight_that_the_file_quantises_and_turns_is_a_format(opset: int, tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["w", "r", "zero8"], "codes"),
        node("Transpose", ["codes"], "turned"),
        node("DequantizeLinear", ["turned", "r", "zero8"], "v"),
        node("MatMul", ["x", "v"]),
    ]
    w, x = rand(3, 4), rand(20, 4)
    path = file(tmp_path, nodes, {**SCALARS, "zero8": np.int8(0), "w": w}, opset=opset)
    graph, _ = load(path)
    assert formats(graph) == {"MatMul_3.weight": "int8_fp32"}
    want = x @ (np.clip(np.round(w / SCALARS["r"]), -128, 127) * SCALARS["r"]).T
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, rtol=0, atol=1e-5)


def test_the_same_quantiser_twice_is_one(tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], "a"), quant("a", "s", "b"), quant("b", "s", "c"), node("Relu", ["c"])]
    assert kinds(compare(file(tmp_path, nodes, SCALARS), rand(9, 4))) == ["activation", "activation"]


def test_a_value_with_two_readers_keeps_its_quantiser(tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], "a"), quant("a", "s", "b"), node("Add", ["a", "b"])]
    assert kinds(compare(file(tmp_path, nodes, SCALARS), rand(9, 4))) == ["activation", "requantize", "add"]


HALVES = np.array([[0.5, 1.5, -0.5, -1.5], [2.5, -2.5, 3.5, -3.5]], np.float32)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("zero", [0, 1, 2, -3])
@pytest.mark.parametrize("word", ["ROUND", "HALF_EVEN", "HALF_UP", "FLOOR", "CEIL", "DOWN"])
def test_ties_are_decided_after_the_zero_point_is_added(word: str, zero: int, signed: int, tmp_path: Path) -> None:
    arrays = {**SCALARS, "s": np.float32(0.25), "zero": np.float32(zero)}
    path = file(tmp_path, [quant("x", "s", "y", bits="four", signed=signed, rounding_mode=word)], arrays)
    x = np.concatenate([HALVES, HALVES + 0.25, 3 * HALVES]) / 4
    low, high = (-8, 7) if signed else (0, 15)
    ties = x / 0.25 + zero
    away = np.sign(ties) * np.floor(np.abs(ties) + 0.5)
    codes = {"HALF_UP": away, "FLOOR": np.floor(ties), "CEIL": np.ceil(ties), "DOWN": np.trunc(ties)}
    want = (np.clip(codes.get(word, np.round(ties)), low, high) - zero) * 0.25
    graph, report = load(path)
    assert np.array_equal(graph(torch.from_numpy(x)).numpy(), want) and report.worst == 0


def test_files_with_quantisers_are_compared(tmp_path: Path) -> None:
    nodes = [quant("x", "s", "a"), node("MatMul", ["a", "w"], "b"), quant("b", "r", "c", narrow=1), node("Exp", ["c"])]
    _, report = load(file(tmp_path, nodes, {**SCALARS, "w": rand(4, 3)}))
    assert report.worst is not None and report.worst < 1e-5 and report.notes == ()


@pytest.mark.parametrize("kind", ["Quant", "BipolarQuant", "Trunc", "QuantizeLinear"])
def test_a_quantiser_that_gives_other_codes_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {
        "Quant": [quant("x", "s", "y")],
        "BipolarQuant": [node("BipolarQuant", ["x", "s"], domain=Q)],
        "Trunc": [quant("x", "s", "a"), node("Trunc", ["a", "s", "zero", "bits", "four"], domain=Q)],
        "QuantizeLinear": [node("QuantizeLinear", ["x", "s"], "a"), node("DequantizeLinear", ["a", "s"])],
    }[kind]
    path = file(tmp_path, nodes, SCALARS)
    assert load(path)[1].worst == 0
    builder = sys.modules["mase.frontend.onnx_builder"]
    honest = builder.Builder.requantize

    def off(self: Any, step: Any, value: Any, fmt: Any, params: Any) -> Any:
        if step.type != kind:
            return honest(self, step, value, fmt, params)
        if isinstance(fmt, Fixed):
            return honest(self, step, value, replace(fmt, frac=fmt.frac - 1), params)
        return honest(self, step, value, fmt, replace(params, scale=2 * params.scale))

    monkeypatch.setattr(builder.Builder, "requantize", off)
    with pytest.raises(GraphError, match=rf"{kind}.*: the graph rounds .* to .*; the file's quantiser gives"):
        load(path)


def test_a_quantised_weight_is_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, [quant("w", "r", "wq", narrow=1), node("MatMul", ["x", "wq"])], {**SCALARS, "w": rand(4, 3)})
    from mase.frontend import onnx_formats

    honest = onnx_formats.format_of
    monkeypatch.setattr(
        onnx_formats,
        "format_of",
        lambda grid, rank, step: honest(replace(grid, scale=grid.scale * 1.01), rank, step),
    )
    with pytest.raises(GraphError, match="quant_wq"):
        load(path)


@pytest.mark.parametrize("first", ["bipolar", "zero point", "word", "scale a channel"])
def test_a_quantiser_behind_an_odd_one_stays_a_node(first: str, tmp_path: Path) -> None:
    before = {
        "bipolar": node("BipolarQuant", ["x", "s"], "q", domain=Q),
        "zero point": quant("x", "s", "q", zero="one", signed=0),
        "word": quant("x", "r", "q", narrow=1, rounding_mode="FLOOR"),
        "scale a channel": quant("x", "each", "q"),
    }[first]
    arrays = {**SCALARS, "one": np.float32(1), "each": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)}
    path = file(tmp_path, [before, quant("q", "t", "y", bits="four", narrow=1)], arrays)
    graph, report = load(path)
    x = 3 * rand(20, 4)
    assert kinds(graph) == ["requantize"] and ("quant_y" in report.refused) == (first == "scale a channel")
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), judge(path, x), rtol=0, atol=1e-6)
