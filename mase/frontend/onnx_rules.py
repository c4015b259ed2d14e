"""What is checked of an ONNX file before its nodes are read, and the one funnel for what nobody foresaw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mase.errors import GraphError, MaseError, UnsupportedOp

MOST = 1 << 29  # elements of one tensor; 2 GiB of float32
LOOPS = ("Loop", "Scan")


class Unforeseen(GraphError):
    """An error that no check foresaw while a file was read; what raised it is chained as its cause."""


@contextmanager
def told(where: Callable[[], str]) -> Iterator[None]:
    """Turn every error that is not ours into one line that says where it happened.

    Args:
        where: the file and, as far as it is known, the node.
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


def check_size(what: str, shape: Sequence[int], most: int = MOST) -> None:
    """Refuse a tensor that is too large to be made.

    Raises:
        UnsupportedOp: names it, its shape and the bound.
    """
    if math.prod(shape) > most:
        raise UnsupportedOp(f"{what} has shape {tuple(shape)}; allowed are {most} elements at most")


class Rules:
    """ONNX's own rules for a node of its standard operators: attributes by name and type, and how many inputs.

    Args:
        opset: of the file.
    """

    def __init__(self, opset: int) -> None:
        import onnx

        self._opset, self._checker = opset, onnx.checker
        self._context = onnx.checker.C.CheckerContext()
        self._context.ir_version = onnx.IR_VERSION
        self._context.opset_imports = {"": opset}

    def fault(self, proto: Any) -> str:  # a NodeProto
        """Say which rule a node breaks; nothing where it breaks none, or where there are no rules for it."""
        import onnx

        if proto.domain not in ("", "ai.onnx") or any(a.type in (5, 10) for a in proto.attribute):  # graphs
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
