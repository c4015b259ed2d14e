"""What follows from the batch of an ONNX file stays free or is refused: it is never folded with an example's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase.errors import GraphError, MaseError, UnsupportedOp
from mase.frontend.onnx import load

onnx = pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from onnx import TensorProto  # noqa: E402  # after the check that the package is there

from mase.frontend.onnx_batch import batch_sizes  # noqa: E402
from tests.frontend.onnx_files import Arrays, file, judge, kinds, node, rand  # noqa: E402

BATCH = [node("Shape", ["x"], "n", end=1)]
FLOAT = [*BATCH, node("Cast", ["n"], "f", to=TensorProto.FLOAT)]
FOLLOWS = "follows from the size of the batch, which is free"
WHOLE = "whose size follows from the batch"


def follows_any_batch(path: Path, *shape: int, sizes: Sequence[int] = (1, 2, 5, 9, 70)) -> list[str]:
    """Compare the graph with the evaluator on several batches and return the kinds of its nodes."""
    graph, _ = load(path)
    for size in sizes:
        x = rand(size, *shape, seed=size)
        got, want = graph(torch.from_numpy(x)).numpy(), judge(path, x)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    return kinds(graph)


REFUSED: dict[str, tuple[Sequence[Any], Arrays, str]] = {
    "times the batch": ([*FLOAT, node("Mul", ["x", "f"])], {}, FOLLOWS),
    "by the batch": ([*FLOAT, node("Div", ["x", "f"])], {}, FOLLOWS),
    "batch minus x": ([*FLOAT, node("Sub", ["f", "x"])], {}, FOLLOWS),
    "greatest of batch and x": ([*FLOAT, node("Max", ["x", "f"])], {}, FOLLOWS),
    "clip at the batch": ([*FLOAT, node("Squeeze", ["f"], "s"), node("Clip", ["x", "", "s"])], {}, FOLLOWS),
    "power": ([*FLOAT, node("Pow", ["x", "f"])], {}, FOLLOWS),
    "least of batch and 3": (
        [*BATCH, node("Min", ["n", "three"], "m"), node("Cast", ["m"], "f", to=1), node("Mul", ["x", "f"])],
        {"three": [3]},
        FOLLOWS,
    ),
    "is the batch above 60": (
        [*BATCH, node("Greater", ["n", "c"], "g"), node("Where", ["g", "x", "x"])],
        {"c": [60]},
        FOLLOWS,
    ),
    "is the batch 64": ([*BATCH, node("Equal", ["n", "c"], "g"), node("Where", ["g", "x", "x"])], {"c": [64]}, FOLLOWS),
    "half of the batch": (
        [*BATCH, node("Div", ["n", "c"], "h"), node("Cast", ["h"], "f", to=1), node("Mul", ["x", "f"])],
        {"c": [64]},
        "rounds a quotient that follows",
    ),
    "a number cut off": (
        [*FLOAT, node("Div", ["f", "c"], "h"), node("Cast", ["h"], "i", to=7), node("Slice", ["x", "i", "e", "a"])],
        {"c": np.float32([64]), "e": [9], "a": [1]},
        "cuts off a number that follows",
    ),
    "a count of rows": (
        [*BATCH, node("Squeeze", ["n"], "s"), node("Range", ["zero", "s", "one"], "r"), node("Add", ["x", "r"])],
        {"zero": np.int64(0), "one": np.int64(1)},
        FOLLOWS,
    ),
    "an element of a table": (
        [*BATCH, node("Gather", ["t", "n"], "g"), node("Add", ["x", "g"])],
        {"t": rand(99)},
        FOLLOWS,
    ),
    "first rows": ([node("Slice", ["x", "s", "e", "a"])], {"s": [0], "e": [3], "a": [0]}, WHOLE),
    "a thousand rows": ([node("Slice", ["x", "s", "e", "a"])], {"s": [0], "e": [1000], "a": [0]}, WHOLE),
    "last row": ([node("Slice", ["x", "s", "e", "a"])], {"s": [-1], "e": [2**40], "a": [0]}, WHOLE),
    "every other row": (
        [node("Slice", ["x", "s", "e", "a", "p"])],
        {"s": [0], "e": [2**40], "a": [0], "p": [2]},
        WHOLE,
    ),
    "one row": ([node("Gather", ["x", "i"])], {"i": np.int64(0)}, WHOLE),
    "halves of the batch": ([node("Split", ["x"], ["a", "y"], num_outputs=2)], {}, WHOLE),
    "rows around": ([node("Pad", ["x", "p"])], {"p": [1, 0, 0, 0]}, WHOLE),
    "two rows": ([node("Reshape", ["x", "t"])], {"t": [2, -1]}, "is not a batch"),
    "three rows": ([node("Reshape", ["x", "t"])], {"t": [3, -1]}, "cannot become"),
    "five rows": ([node("Reshape", ["x", "t"])], {"t": [5, 4]}, "cannot become"),
    "a batch of batches": ([*BATCH, node("Concat", ["n", "n"], "t", axis=0), node("Expand", ["x", "t"])], {}, "become"),
    "squeezed": ([node("Squeeze", ["x"])], {}, "a batch of one sample included"),
    "first row for all": ([node("ReduceMax", ["x", "a"], "m"), node("Add", ["x", "m"])], {"a": [0]}, "is not a batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_the_size_of_the_batch_is_refused(name: str, tmp_path: Path) -> None:
    nodes, arrays, text = REFUSED[name]
    with pytest.raises(MaseError, match=text) as caught:
        load(file(tmp_path, nodes, arrays))
    assert isinstance(caught.value, UnsupportedOp | GraphError) and "\n" not in str(caught.value)


TAKEN: dict[str, tuple[Sequence[Any], Arrays]] = {
    "shape arithmetic": (
        [*BATCH, node("Concat", ["n", "rest"], "t", axis=0), node("Reshape", ["x", "t"])],
        {"rest": [2, 2]},
    ),
    "rows joined and parted": (
        [
            node("Reshape", ["x", "pairs"], "a"),
            *BATCH,
            node("Mul", ["n", "two"], "m"),
            node("Concat", ["m", "two"], "t", axis=0),
            node("Reshape", ["a", "t"], "b"),
            node("Reshape", ["b", "back"]),
        ],
        {"pairs": [-1, 2], "two": [2], "back": [-1, 4]},
    ),
    "all rows": ([node("Slice", ["x", "s", "e", "a"])], {"s": [0], "e": [2**31 - 1], "a": [0]}),
    "rows up to the batch": ([*BATCH, node("Slice", ["x", "s", "n", "a"])], {"s": [0], "a": [0]}),
    "ones for each sample": (
        [
            *BATCH,
            node("Concat", ["n", "four"], "t", axis=0),
            node("ConstantOfShape", ["t"], "o", value=onnx.helper.make_tensor("v", 1, [1], [1.0])),
            node("Sub", ["o", "x"]),
        ],
        {"four": [4]},
    ),
    "a mask computed from ones": (
        [
            *BATCH,
            node("Concat", ["n", "four"], "t", axis=0),
            node("ConstantOfShape", ["t"], "o", value=onnx.helper.make_tensor("v", 1, [1], [1.0])),
            node("Greater", ["o", "half"], "g"),
            node("Where", ["g", "x", "zeros"]),
        ],
        {"four": [4], "half": np.float32(0.5), "zeros": np.zeros(4, np.float32)},
    ),
    "a size that is never -1": (
        [
            *BATCH,
            node("Concat", ["n", "rest"], "t", axis=0),
            node("Equal", ["t", "minus"], "g"),
            node("Where", ["g", "ones", "t"], "u"),
            node("Expand", ["row", "u"], "rows"),
            node("Mul", ["x", "rows"]),
        ],
        {"rest": [4], "minus": [-1, -1], "ones": [1, 1], "row": rand(1, 4)},
    ),
    "batch over batch": ([*FLOAT, node("Div", ["f", "f"], "u"), node("Mul", ["x", "u"])], {}),
    "batch second": (
        [
            node("Unsqueeze", ["x", "a"], "u"),
            node("Transpose", ["u"], "v", perm=[1, 0, 2]),
            node("Softmax", ["v"], "w"),
            node("Transpose", ["w"], "z", perm=[1, 0, 2]),
            node("Squeeze", ["z", "a"]),
        ],
        {"a": [1]},
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_follows_the_batch_is_right_on_every_batch(name: str, tmp_path: Path) -> None:
    nodes, arrays = TAKEN[name]
    follows_any_batch(file(tmp_path, nodes, arrays), 4)


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_a_size_of_the_file_is_never_taken_for_the_batch(size: int, tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "t"], "a"), node("Reshape", ["a", "u"])]
    path = file(tmp_path, nodes, {"t": [-1, size], "u": [-1, 2 * size]}, ("N", 2 * size))
    follows_any_batch(path, 2 * size, sizes=(1, size))


def test_the_sizes_of_the_examples_occur_nowhere_in_the_file(tmp_path: Path) -> None:
    nodes = [node("Slice", ["x", "s", "e", "a"], "b"), node("LeakyRelu", ["b"], alpha=17.0)]
    path = file(tmp_path, nodes, {"s": [3], "e": [7], "a": [1], "w": rand(11, 13)}, (5, 8))
    assert batch_sizes(onnx.load(str(path))) == (19, 23)


@pytest.mark.parametrize("written", [1, 3, 8])
def test_a_file_of_a_fixed_batch_is_compared_at_that_batch(written: int, tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["x", "t"], "a"),
        node("Expand", ["a", "u"], "b"),
        node("Slice", ["b", "s", "e", "s"], "c"),
        node("Concat", ["c", "rows"], "d", axis=1),
        node("Add", ["d", "rows"]),
    ]
    arrays = {"t": [written, 4], "u": [written, 4], "s": [0], "e": [written]}
    rows = np.repeat(rand(1, 1), written, 0)
    path = file(tmp_path, nodes, {**arrays, "rows": rows}, (written, 2, 2))
    graph, report = load(path)
    assert report.worst is not None and report.worst < 1e-6
    x = rand(written, 2, 2)
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), judge(path, x), rtol=0, atol=1e-6)
    assert graph(torch.zeros(6, 2, 2)).shape == (6, 5)


def test_rows_that_differ_between_the_samples_of_a_fixed_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOp, match=r"cannot run on \(N, 4\)"):
        load(file(tmp_path, [node("Add", ["x", "c"])], {"c": rand(3, 4)}, (3, 4)))


@pytest.mark.parametrize("shape", [(3, 1), (3, 3), (1, 1, 3)])
def test_gemm_takes_one_number_an_output_alone(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = file(tmp_path, [node("Gemm", ["x", "w", "c"])], {"w": rand(4, 3), "c": rand(*shape)}, (3, 4))
    with pytest.raises(UnsupportedOp, match=r"C has shape .*; allowed is one number an output: \(3,\)"):
        load(path)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (1, 3)])
def test_gemm_adds_c_to_each_row(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = file(tmp_path, [node("Gemm", ["x", "w", "c"])], {"w": rand(4, 3), "c": rand(*shape)})
    assert follows_any_batch(path, 4) == ["linear"]
