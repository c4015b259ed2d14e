"""Pooling over windows, to a given size, or over whole axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, one_of
from mase.ops.operations import Operations, each

WINDOWS = ("max", "average")
SIZES = ("adaptive_max", "adaptive_average")
AXES = ("mean", "sum", "amax", "amin")
POOLS: Mapping[tuple[str, int], Callable[..., Any]] = {
    ("max", 1): F.max_pool1d,
    ("max", 2): F.max_pool2d,
    ("max", 3): F.max_pool3d,
    ("average", 1): F.avg_pool1d,
    ("average", 2): F.avg_pool2d,
    ("average", 3): F.avg_pool3d,
    ("adaptive_max", 1): F.adaptive_max_pool1d,
    ("adaptive_max", 2): F.adaptive_max_pool2d,
    ("adaptive_max", 3): F.adaptive_max_pool3d,
    ("adaptive_average", 1): F.adaptive_avg_pool1d,
    ("adaptive_average", 2): F.adaptive_avg_pool2d,
    ("adaptive_average", 3): F.adaptive_avg_pool3d,
}  # by function and number of pooled axes


@OPS.add("pool")
class Pool(Op):
    """y = one number for a window, or for an axis.

    Attributes: function. max and average: size, stride, padding, ceil (count partial windows), dilation (max),
    count_padding (average). adaptive_max and adaptive_average: size of the result, None keeps an axis. mean, sum, amax
    and amin: axes, all counted from the batch, and keepdim.
    """

    kind: ClassVar[str] = "pool"
    family: ClassVar[Family] = "function"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        x, a, function = inputs[0], record.attrs, record.attrs["function"]
        if function in AXES:
            reduced: Tensor = getattr(x, function)(tuple(a["axes"]), keepdim=a.get("keepdim", False))
            return reduced
        size = a["size"]
        pool = POOLS[function, len(size)]
        if function in SIZES:
            y: Tensor = pool(x, size if len(size) > 1 else size[0])
            return y
        stride, padding, ceil = a.get("stride", size), a.get("padding", [0] * len(size)), a.get("ceil", False)
        if function == "max":
            y = pool(x, size, stride, padding, a.get("dilation", [1] * len(size)), ceil)
        else:
            y = pool(x, size, stride, padding, ceil, a.get("count_padding", True))
        return y

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        if record.attrs["function"] in AXES:
            return None
        return rank - len(record.attrs["size"]) - 1

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        attrs, before, after = node.record.attrs, node.inputs[0].record.output.shape, node.record.output.shape
        if attrs["function"] in AXES:
            return each(before)
        pooled = len(attrs["size"])
        if attrs["function"] in SIZES:
            axes = zip(before[-pooled:], after[-pooled:], strict=True)
            return each((*after[:-pooled], *(_covered(size, parts) for size, parts in axes)))
        return each((*after, *attrs["size"]))

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        function = one_of(node, "function", WINDOWS + SIZES + AXES)
        needed = "axes" if function in AXES else "size"
        values = node.record.attrs.get(needed)
        rank = len(node.inputs[0].record.output.shape)
        if not isinstance(values, list | tuple) or (needed == "size" and not 1 <= len(values) <= 3):
            raise GraphError(f"{node.where()}: {needed} {values!r}; allowed is a list, one number an axis")
        if needed == "axes" and any(not -rank <= axis < rank for axis in values):
            raise GraphError(f"{node.where()}: axes {values!r}; allowed are axes of {rank}")


def _covered(size: int, parts: int) -> int:
    """Return how many elements the windows of an adaptive pool cover along an axis; uneven ones overlap."""
    return sum(-(-(i + 1) * size // parts) - i * size // parts for i in range(parts))
