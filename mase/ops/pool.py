"""Pooling over windows, to a given size, or over whole axes (hw/reduce)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.blocks.align import Alignment
from mase.blocks.output import Output
from mase.blocks.pad import Border
from mase.blocks.reduce import Reduction
from mase.dataflow.grid import activation_grid, produced_grid, stream_grid
from mase.errors import GraphError, UnsupportedOp
from mase.formats import QuantParams
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, HardwareOp, not_negative, one_of
from mase.ops.operations import Operations, each
from mase.ops.reducing import Places, Reducing, images, orders

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


LEAST = "amin"
CHOSEN = frozenset({"max", "adaptive_max", "amax", LEAST})  # one of the elements
MEANS = frozenset({"average", "adaptive_average", "mean"})


@OPS.add("pool")
@dataclass(frozen=True, eq=False)
class Pool(Reducing, HardwareOp):
    """y = one number for a window, or for an axis: the greatest or the least one, the mean or the sum.

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
            reduced = {axis % rank for axis in record.attrs["axes"]}
            return max(set(range(1, rank)) - reduced, default=None)
        return rank - len(record.attrs["size"]) - 1

    @classmethod
    def keeps_axes(cls, record: Record) -> bool:
        return record.attrs["function"] not in AXES

    @classmethod
    def carried(cls, record: Record, shape: Sequence[int], axis: int) -> int | None:
        attrs = record.attrs
        if attrs["function"] not in AXES:
            return axis
        reduced = sorted(found % len(shape) for found in attrs["axes"])
        if axis in reduced:
            return None
        return axis if attrs.get("keepdim") else axis - sum(found < axis for found in reduced)

    @classmethod
    def moves(cls, record: Record) -> bool:
        return record.attrs["function"] in ("max", "adaptive_max")  # the greatest of some codes is one of them

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        return not_negative(node.inputs[0])

    @classmethod
    def builds(cls, record: Record) -> bool:
        attrs = record.attrs
        return attrs.get("count_padding", True) or not any(attrs.get("padding", ()))

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

    # -- hardware ---------------------------------------------------------------------------------------------------

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        cls._of(node)  # cheap, as there are no weights

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        return cls._of(node)

    @classmethod
    def _of(cls, node: OpNode) -> Self:
        function, source = node.record.attrs["function"], node.inputs[0]
        x, y, params = _grids(node)
        places, reduced = _along(node) if function in AXES else (_windows(node), [])
        come, give = orders(node, reduced) if function in AXES else images(node)
        low = max(x.low, 0) if not_negative(source) else x.low
        build = partial(Reduction, x, low, places.taps, come.cols, function in CHOSEN, where=node.where())
        if function == LEAST:
            build = partial(build, least=True)
        try:
            reduction = build()
        except UnsupportedOp:
            if not x.block:
                raise
            reduction = build(alignment=Alignment(x, places.taps))  # exponents reach too far for an exact sum
        out = _output(node, reduction, y, params)
        return cls(node.name, places, reduction, out, come, give, node.record.output.shape[1:])


def _grids(node: OpNode) -> tuple[Grid, Grid, tuple[QuantParams, QuantParams]]:
    """Return the grids of input and result, and their parameters; one of some codes needs no rounding."""
    where, source = node.where(), node.inputs[0]
    before, after = source.record.output.format, node.record.output.format
    assert before is not None and after is not None
    params = source.params(), node.params()
    x, y = activation_grid(before, params[0], where), stream_grid(after, params[1], where)
    same = before == after and _same(*params) and y.plain is y and not y.block
    if node.record.attrs["function"] not in CHOSEN or not same:
        y = produced_grid(after, params[1], where)
    return x, y, params


def _same(a: QuantParams, b: QuantParams) -> bool:
    """Tell whether two scales are equal."""
    if a.scale is None or b.scale is None:
        return a.scale is b.scale
    return torch.equal(a.scale, b.scale)


def _output(node: OpNode, reduction: Reduction, y: Grid, params: tuple[QuantParams, QuantParams]) -> Output:
    """Return the output side: powers of two in a mean's count are shifts, the rest is a dyadic multiplier."""
    x, attrs = reduction.x, node.record.attrs
    scale = params[0].scale if x.scaled else None
    target = params[1].scale if y.scaled else None
    if scale is not None and target is not None and torch.equal(scale, target):
        scale = target = None
    halvings, odd = 0, 1
    if attrs["function"] in MEANS:
        halvings = (reduction.taps & -reduction.taps).bit_length() - 1
        odd = reduction.taps >> halvings
    if odd > 1:
        scale = (torch.ones(1) if scale is None else scale).double() / odd
    mode = attrs.get("rounding", "even")
    return Output.of(y, scale, target, x.unit - halvings - reduction.raised, reduction.bound, False, mode, node.where())


def _along(node: OpNode) -> tuple[Places, list[int]]:
    """Return the groups of a function over whole axes, and these axes of a sample."""
    shape = node.inputs[0].record.output.shape
    axes = sorted(axis % len(shape) for axis in node.record.attrs["axes"])
    if not axes or axes[0] == 0:
        raise UnsupportedOp(f"{node.where()}: reduces the batch axis; allowed on chip are axes of a sample")
    taps = math.prod(shape[axis] for axis in axes)
    kept = [axis for axis in range(1, len(shape)) if axis not in axes]
    groups = math.prod(shape[axis] for axis in kept[:-1])
    return Places((groups, taps), Border(), None, taps), [axis - 1 for axis in axes]


def _windows(node: OpNode) -> Places:
    """Return the windows of a function over them."""
    attrs, where, shape = node.record.attrs, node.where(), node.inputs[0].record.output.shape
    after, count = node.record.output.shape, len(attrs["size"])
    if len(shape) != count + 2:
        raise UnsupportedOp(f"{where}: input has {len(shape)} axes; allowed on chip are batch, channels and {count}")
    sizes, results = shape[2:], after[2:]
    if attrs["function"] in SIZES:
        if any(size % result for size, result in zip(sizes, results, strict=True)):
            raise UnsupportedOp(f"{where}: {results} windows of {sizes} elements differ in size; that has no hardware")
        kernel = stride = [size // result for size, result in zip(sizes, results, strict=True)]
        if math.prod(results) == 1:  # of any number of axes
            return Places((1, math.prod(sizes)), Border(), None, math.prod(sizes))
        padding, dilation = [0] * count, [1] * count
    else:
        kernel, stride = attrs["size"], attrs.get("stride", attrs["size"])
        padding, dilation = attrs.get("padding", [0] * count), attrs.get("dilation", [1] * count)
    if count > 2:
        raise UnsupportedOp(f"{where}: windows over {count} axes have no hardware; allowed are 1 and 2")
    ends = [
        (result - 1) * s + d * (k - 1) + 1 - size - p
        for size, result, k, s, p, d in zip(sizes, results, kernel, stride, padding, dilation, strict=True)
    ]
    if attrs["function"] == "average" and any(end > p for end, p in zip(ends, padding, strict=True)):
        raise UnsupportedOp(f"{where}: the last window holds fewer elements (ceil); that has no hardware")
    _check_covered(where, sizes, results, kernel, stride, padding, dilation)
    border = _flat([(p, max(p, end)) for p, end in zip(padding, ends, strict=True)], (0, 0))
    pairs = [_flat(values, 1) for values in (kernel, stride, dilation)]
    return Places.of(_flat(sizes, 1), Border(*border[0], *border[1]), *pairs)


def _flat(values: Sequence[Any], other: Any) -> tuple[Any, Any]:  # Any: numbers, or pairs of them
    """Return what holds for (height, width); a line is an image of one row."""
    first, *second = values
    return (first, second[0]) if second else (other, first)


def _check_covered(where: str, *axes: Sequence[int]) -> None:
    """Refuse a window that lies in the border alone: its greatest element would be minus infinity."""
    for size, result, k, s, p, d in zip(*axes, strict=True):
        for start in range(-p, result * s - p, s):
            if not any(0 <= start + i * d < size for i in range(k)):
                raise UnsupportedOp(f"{where}: a window holds nothing but padding; that has no hardware")


def _covered(size: int, parts: int) -> int:
    """Return how many elements the windows of an adaptive pool cover along an axis; uneven ones overlap."""
    return sum(-(-(i + 1) * size // parts) - i * size // parts for i in range(parts))
