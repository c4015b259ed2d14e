"""Damaged ONNX files: each is read, or refused in one line that a check foresaw; none raises, hangs or eats memory."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from mase.errors import MaseError
from mase.frontend.onnx import load

onnx = pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # after the check that the package is there

from mase.frontend.onnx_nodes import NODES  # noqa: E402
from mase.frontend.onnx_rules import Unforeseen  # noqa: E402

Q, LAST = "qonnx.custom_op.general", "qonnx.custom_op.channels_last"
COUNT, PART = 500, 100
SECONDS = 20  # for one file; a sound one takes a tenth of a second
ODD = (0, -1, -2, 1, 2, 3, 5, 17, 1 << 31, -(1 << 40), 1 << 62)
FLOATS = (0.0, -1.0, 0.5, 1e30, -1e30, float("nan"), float("inf"))
TYPES = (1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 16, 21, 22, 25, 8)
Random = np.random.Generator


# -- sound files to start from ----------------------------------------------------------------------------------------


def _file(nodes: list[Any], arrays: dict[str, Any], shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    values = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    x = helper.make_tensor_value_info("x", kind, shape)
    graph = helper.make_graph(nodes, "g", [x], [helper.make_empty_tensor_value_info("y")], values)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(Q, 1), helper.make_opsetid(LAST, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _rand(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _mlp() -> Any:
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"], transB=1),
        node("Clip", ["a", "low", "high"], ["c"]),
        node("MatMul", ["c", "v"], ["d"]),
        node("Add", ["d", "e"], ["f"]),
        node("Softmax", ["f"], ["y"], axis=-1),
    ]
    arrays = {"w": _rand(6, 4), "b": _rand(6), "low": np.float32(0), "high": np.float32(6), "v": _rand(6, 3)}
    return _file(nodes, {**arrays, "e": _rand(3)}, ["N", 4])


def _cnn() -> Any:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], group=1),
        node("BatchNormalization", ["a", "s", "s", "m", "s"], ["n"], epsilon=1e-3),
        node("PRelu", ["n", "p"], ["r"]),
        node("MaxPool", ["r"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        node("Pad", ["d", "pads"], ["e"]),
        node("ConvTranspose", ["e", "t"], ["f"], strides=[2, 2]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    arrays = {"w": _rand(3, 2, 3, 3), "b": _rand(3), "s": abs(_rand(3)), "m": _rand(3), "p": _rand(3, 1, 1)}
    arrays |= {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64), "t": _rand(3, 2, 2, 2)}
    return _file(nodes, arrays, ["N", 2, 6, 6])


def _moves() -> Any:
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "x"], ["a"]),
        node("Shape", ["a"], ["s"], end=1),
        node("Concat", ["s", "rest"], ["to"], axis=0),
        node("Reshape", ["a", "to"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        node("Split", ["c"], ["d", "e"], axis=1, num_outputs=2),
        node("Slice", ["d", "starts", "ends", "axes"], ["f"]),
        node("Unsqueeze", ["f", "axes"], ["g"]),
        node("Squeeze", ["g", "axes"], ["h"]),
        node("Tile", ["h", "times"], ["i"]),
        node("Expand", ["i", "wide"], ["j"]),
        node("LayerNormalization", ["j", "n"], ["k"]),
        node("ReduceMean", ["k", "axes"], ["l"], keepdims=0),
        node("Greater", ["l", "one"], ["m"]),
        node("Where", ["m", "l", "one"], ["o"]),
        node("Max", ["o", "one"], ["p"]),
        node("Pow", ["p", "one"], ["q"]),
        node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]
    whole = {"rest": [4, 3], "starts": [0], "ends": [1], "axes": [1], "times": [1, 2, 1], "wide": [1, 2, 4]}
    arrays = {name: np.array(values, np.int64) for name, values in whole.items()}
    return _file(nodes, {**arrays, "table": _rand(5, 4), "n": _rand(4), "one": np.float32(1)}, ["N", 3], 7)


def _quantised() -> Any:
    node = helper.make_node
    nodes = [
        node("BipolarQuant", ["x", "s"], ["d"], domain=Q),
        node("Quant", ["x", "s", "z", "bits"], ["a"], domain=Q, signed=1, narrow=0, rounding_mode="ROUND"),
        node("Mul", ["a", "d"], ["i"]),
        node("Quant", ["w", "s", "z", "bits"], ["v"], domain=Q, signed=1, narrow=1, rounding_mode="ROUND"),
        node("Conv", ["i", "v"], ["b"], domain=LAST, kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1),
        node("MaxPool", ["b"], ["c"], domain=LAST, kernel_shape=[2, 2], strides=[2, 2]),
        node("QuantizeLinear", ["c", "s", "z8"], ["e"]),
        node("DequantizeLinear", ["e", "s", "z8"], ["f"]),
        node("QuantizeLinear", ["u", "t", "z9"], ["g"], axis=0),
        node("DequantizeLinear", ["g", "t", "z9"], ["h"], axis=0),
        node("Conv", ["f", "h"], ["y"], domain=LAST, kernel_shape=[1, 1], strides=[1, 1], dilations=[1, 1], group=1),
    ]
    arrays = {"s": np.float32(0.25), "z": np.float32(0), "bits": np.float32(4), "z8": np.int8(0)}
    arrays |= {"t": abs(_rand(2)), "z9": np.zeros(2, np.int8)}
    return _file(nodes, {**arrays, "w": _rand(3, 3, 3, 2), "u": _rand(2, 1, 1, 3)}, ["N", 6, 6, 2])


SOUND: dict[str, Callable[[], Any]] = {"mlp": _mlp, "cnn": _cnn, "moves": _moves, "quantised": _quantised}


# -- damage ------------------------------------------------------------------------------------------------------------


def _pick(rng: Random, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _held(tensor: Any) -> Any:
    """Return the numbers of a tensor; nothing where an earlier damage took them."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception:  # noqa: BLE001  # the helper raises errors of every kind
        return np.zeros(0, np.float32)


def _claims_another_shape(model: Any, rng: Random) -> None:
    """The shape of a tensor is not that of its data."""
    tensor = _pick(rng, model.graph.initializer)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, ODD)
    else:
        tensor.dims.append(_pick(rng, ODD))


def _claims_another_type(model: Any, rng: Random) -> None:
    _pick(rng, model.graph.initializer).data_type = _pick(rng, (*TYPES, 0, 99))


def _has_another_shape(model: Any, rng: Random) -> None:
    """A tensor is sound by itself, and does not fit its readers."""
    tensor = _pick(rng, model.graph.initializer)
    array = _held(tensor)
    array = array if array.dtype.kind in "fiub" else np.ones(1)
    shape = [int(rng.integers(0, 5)) for _ in range(int(rng.integers(0, 5)))]
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, shape).astype(array.dtype), tensor.name))


def _has_another_type(model: Any, rng: Random) -> None:
    tensor = _pick(rng, model.graph.initializer)
    dtype = _pick(rng, ("float64", "float16", "int32", "int64", "uint8", "uint16", "bool", "object"))
    array = _held(tensor)
    array = np.full(array.shape, b"text", object) if dtype == "object" else np.ones(array.shape, dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _has_odd_numbers(model: Any, rng: Random) -> None:
    tensor = _pick(rng, model.graph.initializer)
    array = _held(tensor).copy()
    if array.size and array.dtype.kind in "fiu":
        odd = _pick(rng, FLOATS if array.dtype.kind == "f" else ODD)
        with np.errstate(all="ignore"):
            array.reshape(-1)[int(rng.integers(array.size))] = np.asarray(odd).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _has_an_odd_attribute(model: Any, rng: Random) -> None:
    node = _pick(rng, [n for n in model.graph.node if n.attribute] or model.graph.node)
    if not node.attribute:
        return
    attribute = _pick(rng, node.attribute)
    if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
        change = rng.random()
        if change < 0.5:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = _pick(rng, ODD)
        elif change < 0.75:
            attribute.ints.append(_pick(rng, ODD))
        else:
            del attribute.ints[-1]
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = _pick(rng, FLOATS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = _pick(rng, (b"", b"FLOOR", b"\xff\xfe", b"ROUND\n"))
    else:
        attribute.i = _pick(rng, ODD)


def _lacks_an_attribute(model: Any, rng: Random) -> None:
    node = _pick(rng, model.graph.node)
    if node.attribute:
        del node.attribute[int(rng.integers(len(node.attribute)))]


def _has_another_attribute(model: Any, rng: Random) -> None:
    """An attribute that nobody knows, or a known one of another type."""
    node = _pick(rng, model.graph.node)
    name = _pick(rng, [a.name for a in node.attribute] + ["axis", "auto_pad", "unknown"])
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, _pick(rng, (1, 1.5, "SAME_UPPER", [1, 2], [0.5])))])


def _reads_another_value(model: Any, rng: Random) -> None:
    node = _pick(rng, model.graph.node)
    names = [name for n in model.graph.node for name in (*n.input, *n.output)] + ["", "nowhere"]
    change = rng.random()
    if node.input and change < 0.6:
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, names)
    elif node.input and change < 0.8:
        del node.input[-1]
    else:
        node.input.append(_pick(rng, names))


def _gives_another_value(model: Any, rng: Random) -> None:
    node = _pick(rng, model.graph.node)
    if node.output and rng.random() < 0.5:
        node.output[0] = _pick(rng, ("", "y", "x", node.output[0] + "_"))
    else:
        node.output.append(_pick(rng, ("", "more", "y")))


def _is_another_operator(model: Any, rng: Random) -> None:
    node = _pick(rng, model.graph.node)
    node.op_type = _pick(rng, [*sorted(NODES), "Loop", "NonZero", "RandomNormal", "ConstantOfShape", "Range", ""])
    if rng.random() < 0.3:
        node.domain = _pick(rng, ("", Q, LAST, "own"))


def _lacks_a_node(model: Any, rng: Random) -> None:
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def _has_another_input(model: Any, rng: Random) -> None:
    given = _pick(rng, model.graph.input).type.tensor_type
    if rng.random() < 0.4:
        given.elem_type = _pick(rng, (*TYPES, 0, 99))
    elif given.shape.dim and rng.random() < 0.7:
        given.shape.dim[int(rng.integers(len(given.shape.dim)))].dim_value = _pick(rng, ODD)
    elif given.shape.dim:
        del given.shape.dim[-1]
    else:
        given.ClearField("shape")


def _has_another_opset(model: Any, rng: Random) -> None:
    model.opset_import[0].version = _pick(rng, (0, 1, 7, 9, 11, 13, 18, 23, 25, 99, -3))


DAMAGE: tuple[Callable[[Any, Random], None], ...] = (
    _claims_another_shape,
    _claims_another_type,
    _has_another_shape,
    _has_another_type,
    _has_odd_numbers,
    _has_an_odd_attribute,
    _lacks_an_attribute,
    _has_another_attribute,
    _reads_another_value,
    _gives_another_value,
    _is_another_operator,
    _lacks_a_node,
    _has_another_input,
    _has_another_opset,
)


def mutant(seed: int) -> tuple[str, bytes]:
    """Return what was damaged and how, and the file."""
    rng = np.random.default_rng(seed)
    name = sorted(SOUND)[seed % len(SOUND)]
    model, told = SOUND[name](), [name]
    for _ in range(int(rng.integers(1, 3))):
        damage = _pick(rng, DAMAGE)
        damage(model, rng)
        told.append(damage.__name__)
        if not model.graph.node:
            break
    data = bytearray(model.SerializeToString())
    if rng.random() < 0.1:
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        told.append("bit")
    return " ".join(told), bytes(data)


def judge(seed: int, path: Path) -> str:
    """Return what is wrong with how a damaged file is read; nothing where it is read or refused in one line."""
    told, data = mutant(seed)
    path.write_bytes(data)
    try:
        with np.errstate(all="ignore"), limited(SECONDS):
            load(path)
    except MaseError as error:
        bad = isinstance(error, Unforeseen) or "\n" in str(error) or len(str(error)) > 600
        return f"{seed} ({told}): {error}" if bad else ""
    except (Exception, Late) as error:  # noqa: BLE001  # what this is here to find
        return f"{seed} ({told}): {type(error).__name__}: {error}"
    return ""


class Late(BaseException):
    """It took too long; no handler of exceptions on the way takes this for an error of the file."""


class limited:  # noqa: N801  # a context manager reads like a function
    """Stop what takes too long."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGALRM, self._stop)
        signal.alarm(self.seconds)

    def __exit__(self, *error: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        raise Late(f"took more than {self.seconds} s")


def _faults(seeds: range, folder: Path) -> Iterator[str]:
    for seed in seeds:
        if found := judge(seed, folder / "mutant.onnx"):
            yield found


@pytest.mark.parametrize("name", SOUND)
def test_the_files_to_start_from_are_sound(name: str, tmp_path: Path) -> None:
    onnx.save(SOUND[name](), str(tmp_path / "sound.onnx"))
    graph, _ = load(tmp_path / "sound.onnx")
    assert graph.operators() and isinstance(graph.output.record.output.shape, tuple)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    assert list(_faults(range(PART), tmp_path)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    assert list(_faults(range(PART, COUNT), tmp_path)) == []
