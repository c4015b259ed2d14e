"""What an ONNX file may hold and we do not take is told in one line: where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase.errors import GraphError, MaseError
from mase.frontend.onnx import load

onnx = pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # after the check that the package is there

from mase.frontend import onnx_nodes  # noqa: E402
from mase.frontend.onnx_rules import MOST, Unforeseen  # noqa: E402
from tests.frontend.onnx_files import Arrays, compare, file, judge, kinds, node, rand  # noqa: E402

FLOAT, WHOLE = TensorProto.FLOAT, TensorProto.INT64
Given = tuple[Sequence[Any], Arrays, Sequence[Any], int, str]


def whole(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


# -- refused ----------------------------------------------------------------------------------------------------------

REFUSED: dict[str, Given] = {
    "scale a row": (
        [node("QuantizeLinear", ["x", "s"], "a", axis=0), node("DequantizeLinear", ["a", "s"], axis=0)],
        {"s": np.array([1, 2, 4], np.float32)},
        (3, 4),
        FLOAT,
        "(QuantizeLinear): has a scale for each sample of the batch; allowed is one number, or one a channel",
    ),
    "scales that do not fit": (
        [node("QuantizeLinear", ["x", "s"], "a"), node("DequantizeLinear", ["a", "s"])],
        {"s": np.array([1, 2, 4], np.float32)},
        ("N", 4),
        FLOAT,
        "scale has shape (1, 3) on a value of",
    ),
    "rows of a constant": (
        [node("Max", ["x", "c"])],
        {"c": rand(3, 4)},
        (3, 4),
        FLOAT,
        "node 'Max_0' (Max): cannot run on (N, 4), (3, 4)",
    ),
    "sequence": (
        [node("SequenceConstruct", ["c", "c"], "q"), node("SequenceAt", ["q", "i"], "a"), node("Add", ["x", "a"])],
        {"c": rand(4), "i": np.int64(0)},
        ("N", 4),
        FLOAT,
        "(SequenceConstruct): gives 'q', which is not a tensor; allowed are tensors",
    ),
    "four bits": (
        [node("Cast", ["x"], to=FLOAT)],
        {},
        ("N", 4),
        TensorProto.INT4,
        "model.onnx: input 'x' has type int4; allowed: float32",
    ),
    "cast to eight bits": (
        [node("Cast", ["x"], to=TensorProto.FLOAT8E4M3FN)],
        {},
        ("N", 4),
        FLOAT,
        "casts to float8_e4m3fn; allowed: float32",
    ),
    "unsigned": (
        [node("Max", ["x", "c"])],
        {"c": np.arange(4, dtype=np.uint16)},
        ("N", 4),
        TensorProto.UINT16,
        "(Max): cannot run on uint16, for which PyTorch does not have it",
    ),
    "more axes": (
        [node("MatMul", ["x", "w"], "a"), node("Add", ["a", "c"])],
        {"w": rand(4, 3), "c": rand(1, 1, 3)},
        ("N", 4),
        FLOAT,
        "a constant of 3 axes beside a value of 2, whose batch would leave axis 0; allowed are at most 2",
    ),
    "flat batch": (
        [node("Flatten", ["x"], axis=0)],
        {},
        ("N", 4),
        FLOAT,
        "(Flatten): axis 0 joins all samples of the batch into one row; allowed is axis 1 or more",
    ),
    "windows of padding": (
        [node("AveragePool", ["x"], kernel_shape=[2, 2], pads=[2, 2, 2, 2])],
        {},
        ("N", 1, 6, 6),
        FLOAT,
        "has windows of padding alone; allowed are pads smaller than the window",
    ),
    "bfloat16": (
        [node("Attention", ["x", "x", "x"])],
        {},
        ("N", 3, 4, 8),
        TensorProto.BFLOAT16,
        "(Attention): is in bfloat16, whose sums ONNX leaves open; allowed are float32, float64 and float16",
    ),
    "domain": (
        [node("Conv", ["x", "w"], domain="own.ops")],
        {"w": rand(2, 1, 3, 3)},
        ("N", 1, 6, 6),
        FLOAT,
        "(own.ops.Conv): the domain 'own.ops' is not supported; allowed are ONNX's own and qonnx",
    ),
    "name": ([node("Relu6", ["x"])], {}, ("N", 4), FLOAT, "(Relu6): is not supported; did you mean Relu?"),
    "rules": ([node("Relu", ["x", "x"])], {}, ("N", 4), FLOAT, "breaks ONNX's rules: Node with schema(::Relu:14)"),
    "axis": ([node("Softmax", ["x"], axis=2)], {}, ("N", 4), FLOAT, "axis 2 of 2 axes; allowed are -2 to 1"),
    "index": (
        [node("Gather", ["x", "i"], axis=1)],
        {"i": whole(0, 4)},
        ("N", 4),
        FLOAT,
        "indices [0, 4] of 4 elements; allowed are -4 to 3",
    ),
    "drops": ([node("Squeeze", ["x", "a"])], {"a": whole(1)}, ("N", 4), FLOAT, "drops axis 1 of size 4"),
    "split": (
        [node("Split", ["x", "p"], ["y", "z"], axis=1)],
        {"p": whole(1, 2)},
        ("N", 4),
        FLOAT,
        "splits 4 elements into [1, 2] for 2 outputs; these do not fit",
    ),
    "window": (
        [node("MaxPool", ["x"], kernel_shape=[2])],
        {},
        ("N", 1, 6, 6),
        FLOAT,
        "kernel_shape [2], pads [0, 0] on an input of 4 axes; these do not fit",
    ),
    "large": (
        [node("Tile", ["x", "t"])],
        {"t": whole(1, MOST)},
        ("N", 4),
        FLOAT,
        f"result has shape (3, 4, 1, {MOST}); allowed are {MOST} elements at most",
    ),
    "large pads": (
        [node("Conv", ["x", "w"], pads=[1 << 40] * 4)],
        {"w": rand(2, 1, 3, 3)},
        ("N", 1, 6, 6),
        FLOAT,
        f"allowed are {MOST} elements at most",
    ),
    "large constant": (
        [node("ConstantOfShape", ["t"], "c"), node("Add", ["x", "c"])],
        {"t": whole(MOST, 4)},
        ("N", 4),
        FLOAT,
        f"(ConstantOfShape): result has shape ({MOST}, 4); allowed",
    ),
    "large input": ([node("Relu", ["x"])], {}, (MOST, 4), FLOAT, f"input 'x' has shape ({MOST}, 4); allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_where_what_and_what_is_allowed(name: str, tmp_path: Path) -> None:
    nodes, arrays, shape, kind, text = REFUSED[name]
    with pytest.raises(MaseError) as caught:
        load(file(tmp_path, nodes, arrays, shape, kind, opset=24))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value) and not isinstance(caught.value, Unforeseen)


def test_a_loop_of_constants_is_refused_before_it_turns(tmp_path: Path) -> None:
    given = [helper.make_empty_tensor_value_info(name) for name in ("i", "go")]
    body = helper.make_graph(
        [node("Identity", ["go"], "on")], "body", given, [helper.make_empty_tensor_value_info("on")]
    )
    nodes = [node("Loop", ["most", "yes"], [], body=body), node("Relu", ["x"])]
    with pytest.raises(MaseError, match=r"\(Loop\): is a loop; allowed are operators without a body"):
        load(file(tmp_path, nodes, {"most": np.int64(1 << 60), "yes": np.bool_(1)}))


def test_a_tensor_whose_data_do_not_fill_its_shape_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Add", ["x", "c"])], {"c": rand(4)})
    model = onnx.load(str(path))
    model.graph.initializer[0].dims[0] = 5
    onnx.save(model, str(path))
    with pytest.raises(GraphError, match=r"^model\.onnx: tensor 'c': the file is damaged: .*size 4 into shape \(5,\)$"):
        load(path)


def test_what_nobody_foresaw_is_one_line_and_keeps_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise LookupError("first line\nsecond line")

    monkeypatch.setitem(onnx_nodes.NODES, "Relu", fails)  # type: ignore[arg-type]  # it returns no value
    with pytest.raises(Unforeseen) as caught:
        load(file(tmp_path, [node("Relu", ["x"], name="/act")], {}))
    said = "model.onnx: node '/act' (Relu): cannot be read: LookupError: first line second line"
    assert str(caught.value) == said and isinstance(caught.value.__cause__, LookupError)


# -- right ------------------------------------------------------------------------------------------------------------


def test_one_sample_flattened_from_axis_0_keeps_its_row(tmp_path: Path) -> None:
    nodes = [node("Flatten", ["x"], "f", axis=0), node("Gemm", ["f", "w"])]
    graph = compare(file(tmp_path, nodes, {"w": rand(4, 3)}, (1, 2, 2)), rand(1, 2, 2))
    assert graph(torch.zeros(5, 2, 2)).shape == (5, 3)


def test_a_clip_without_limits_is_nothing(tmp_path: Path) -> None:
    assert kinds(compare(file(tmp_path, [node("Clip", ["x"], "a"), node("Relu", ["a"])], {}), rand(3, 4))) == [
        "activation"
    ]


@pytest.mark.parametrize(("opset", "dtype"), [(9, torch.float32), (10, torch.bool), (21, torch.bool)])
def test_the_mask_of_a_dropout_keeps_all(opset: int, dtype: torch.dtype, tmp_path: Path) -> None:
    path = file(tmp_path, [node("Dropout", ["x"], ["y", "mask"])], {}, opset=opset, outputs=("y", "mask"))
    x = torch.from_numpy(rand(3, 4))
    found = load(path, compare=opset > 9)[0].fields(x)  # the evaluator gives truth values for every opset
    assert torch.equal(found["y"], x) and torch.equal(found["mask"], torch.ones(3, 4, dtype=dtype))


@pytest.mark.parametrize("counts", [0, 1])
@pytest.mark.parametrize("pads", [[2, 2, 2, 2], [0, 0, 1, 1], [0, 2, 1, 1], [1, 1, 1, 1]])
def test_averages_take_any_pads(pads: list[int], counts: int, tmp_path: Path) -> None:
    attrs = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": pads, "count_include_pad": counts}
    compare(file(tmp_path, [node("AveragePool", ["x"], **attrs)], {}, ("N", 2, 6, 7)), rand(2, 2, 6, 7))


@pytest.mark.parametrize("pads", [[2, 2, 2, 2], [0, 2, 1, 1], [1, 0, 2, 2]])
def test_maxima_take_any_pads(pads: list[int], tmp_path: Path) -> None:
    path = file(tmp_path, [node("MaxPool", ["x"], kernel_shape=[3, 3], pads=pads)], {}, ("N", 2, 6, 7))
    x = -1e30 * np.abs(rand(2, 2, 6, 7))
    filled = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=-np.inf)
    want = np.lib.stride_tricks.sliding_window_view(filled, (3, 3), (2, 3)).max((-1, -2))
    graph, report = load(path)
    assert report.worst == 0.0
    assert np.array_equal(graph(torch.from_numpy(x)).numpy(), want)


def test_ids_below_0_count_from_the_end(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Gather", ["t", "x"])], {"t": rand(7, 2)}, ("N", 3), WHOLE)
    assert kinds(compare(path, np.array([[0, 1, -1], [6, -7, 2]]))) == ["embedding"]


def test_unsigned_numbers_of_16_bits_go_as_far_as_pytorch_has_them(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Mul", ["x", "c"])], {"c": np.arange(4, dtype=np.uint16)}, ("N", 4), TensorProto.UINT16)
    compare(path, np.array([[9, 8, 7, 60000]], np.uint16))


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4"])
def test_weights_of_2_and_4_bits_are_formats(name: str, tmp_path: Path) -> None:
    import ml_dtypes

    codes = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1]]).astype(getattr(ml_dtypes, name))
    nodes = [node("DequantizeLinear", ["c", "s"], "w"), node("MatMul", ["x", "w"])]
    graph, _ = load(file(tmp_path, nodes, {"c": codes, "s": np.float32(0.3)}, opset=25))
    x = rand(3, 4)
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), x @ (codes.astype(np.float32) * 0.3), atol=1e-6)
    assert graph.node("MatMul_1").record.operands["weight"].format is not None


def test_float16_is_held_to_its_own_bound(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Attention", ["x", "x", "x"])], {}, ("N", 3, 4, 8), TensorProto.FLOAT16, opset=23)
    graph, report = load(path)
    assert report.bound == 8 * 2**-10 and report.worst is not None and report.worst < 2e-3
    x = np.random.default_rng(0).random((2, 3, 4, 8)).astype(np.float16)
    got, want = graph(torch.from_numpy(x)).numpy(), judge(path, x)
    assert got.dtype == want.dtype == np.float16 and np.abs(got - want).max() <= 2**-10  # two units in the last place
    plain = file(tmp_path, [node("Relu", ["x"])], {}, ("N", 4))
    assert load(plain)[1].bound == 1e-4


def test_a_tensor_of_the_file_holds_what_it_says(tmp_path: Path) -> None:
    path = file(tmp_path, [node("Add", ["x", "c"])], {"c": rand(4)})
    held = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
    assert torch.equal(load(path)[0].tensors["c"], torch.from_numpy(held.copy()))
