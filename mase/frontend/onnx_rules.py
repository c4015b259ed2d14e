"""What is checked of an ONNX file before its nodes are read, and the one funnel for what nobody foresaw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mase.errors import GraphError, MaseError, UnsupportedOp

MOST = 1 << 29  # elements of one tensor; 2 GiB of float32
LAST = "qonnx.custom_op.channels_last"  # the domain of ONNX's operators with channels last; the same rules hold
LOOPS = ("Loop", "Scan")


class Unforeseen(GraphError):
    """An error that no check foresaw while a file was read; what raised it is chained as its cause."""


@contextmanager
def told(where: Callable[[], str]) -> Iterator[None]:
    """Turn every error that is not ours into one line that says where it happened.

    Args:
        where: the file and, as far as it is known, the node.

    Raises:
        Unforeseen: what ran inside raised an error that is not a ``MaseError``.
    """
    try:
        yield
    except MaseError:
        raise
    except Exception as error:
        raise Unforeseen(f"{where()}: cannot be read: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def check_size(what: str, shape: Sequence[int]) -> None:
    """Refuse a tensor that is too large to be made.

    Raises:
        UnsupportedOp: names it, its shape and the bound.
    """
    if math.prod(shape) > MOST:
        raise UnsupportedOp(f"{what} has shape {tuple(shape)}; allowed are {MOST} elements at most")


Shape = Sequence[int]


def together(shapes: Sequence[Shape]) -> Shape:
    """Return the shape to which tensors spread, an upper bound of it where they do not fit."""
    rank = max(map(len, shapes), default=0)
    aligned = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    return [max(sizes) for sizes in zip(*aligned, strict=True)]


def made(kind: str, attrs: Mapping[str, Any], inputs: Sequence[Shape], operands: Sequence[Shape]) -> Shape:
    """Return an upper bound of the shape that a node gives, where it may be much larger than what it reads.

    Args:
        kind, attrs: of the typed node. inputs, operands: their shapes.
    """
    x, given = (list(inputs[0]) if inputs else []), [*inputs, *operands]
    if kind in ("add", "mul"):
        return together(given)
    if kind == "matmul" and all(len(shape) > 1 for shape in given):
        first, second = reversed(given) if attrs.get("reverse") else given
        return [*together([first[:-2], second[:-2]]), first[-2], second[-1]]
    if kind == "linear":
        return [*x[:-1], max(operands[0], default=1)]
    if kind in ("conv", "pool") and "padding" in attrs:
        channels = math.prod(operands[0][:2]) if operands else 1
        strides = attrs["stride"] if attrs.get("transposed") else [1] * len(attrs["padding"])
        sides = zip(x[2:], strides, attrs["padding"], strict=False)
        return [*x[:1], max(channels, *x[1:2]), *(size * stride + 2 * pad for size, stride, pad in sides)]
    return _moved(attrs, x) if kind == "layout" else ()


def _moved(attrs: Mapping[str, Any], x: Sequence[int]) -> Shape:
    """Return what :func:`made` does of a node that spreads, repeats or pads."""
    if attrs.get("function") == "expand":
        return together([x, attrs["shape"]])
    if attrs.get("function") == "repeat":
        return [*x, *attrs["repeats"]]
    if attrs.get("function") == "pad":
        pads = [abs(pad) for pad in attrs["padding"]]
        added = [*reversed([low + high for low, high in zip(pads[::2], pads[1::2], strict=False)])]
        return [size + more for size, more in zip(x, [0] * (len(x) - len(added)) + added, strict=False)]
    return ()


class Rules:
    """ONNX's own rules for a node of its standard operators: attributes by name and type, and how many inputs.

    Args:
        opset: of the file.
    """

    def __init__(self, opset: int) -> None:
        import onnx

        self._checker = onnx.checker
        self._context = onnx.checker.C.CheckerContext()
        self._context.ir_version = onnx.IR_VERSION
        self._context.opset_imports = {"": opset}

    def fault(self, proto: Any) -> str:  # a NodeProto
        """Say which rule a node breaks; nothing where it breaks none, or where there are no rules for it."""
        import onnx

        if proto.domain not in ("", "ai.onnx", LAST) or any(a.type in (5, 10) for a in proto.attribute):  # graphs
            return ""
        if not onnx.defs.has(proto.op_type):
            return ""
        node = type(proto)()
        node.CopyFrom(proto)
        node.domain = ""
        if node.op_type == "Gemm" and len(node.input) == 2:
            node.input.append("C")  # every runtime takes files without it, which opset 11 allows
        try:
            self._checker.check_node(node, self._context)
        except self._checker.ValidationError as error:
            return str(error).strip().splitlines()[0].removesuffix(".")
        except UnicodeDecodeError:
            return "a name that is not UTF-8"
        return ""


def folded_size(kind: str, feeds: Mapping[str, Any], names: Sequence[str]) -> Sequence[int]:
    """Return the shape of what an operator that makes large tensors out of small ones gives; empty for all others.

    Args:
        feeds: arrays by name. names: of the inputs, in order.
    """
    arrays = [feeds[name] for name in names if name]
    numbers = [[int(n) for n in array.reshape(-1)] if array.dtype.kind in "iu" else [] for array in arrays]
    if kind == "ConstantOfShape" and arrays:
        return numbers[0]
    if kind in ("Expand", "Tile") and len(arrays) > 1:
        return [max(n, 1) for n in numbers[1]] + [arrays[0].size]
    if kind == "OneHot" and len(arrays) > 1:
        return [arrays[0].size, *numbers[1]]
    if kind == "Range" and len(arrays) > 2:
        start, end, step = (float(array.reshape(-1)[0]) if array.size else 0.0 for array in arrays)
        return [int(min(abs(end - start) / (abs(step) or 1.0), 1e18))]
    if kind == "Pad" and len(arrays) > 1:
        return [abs(n) + size for n, size in zip(numbers[1], [*arrays[0].shape] * 2, strict=False)]
    return ()
