"""How ONNX's operators that move elements become nodes of kind layout; also tables that indices read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mase.frontend.onnx_builder import BATCH, TYPES, Builder, Constant, Step, Value, plain, repeats
from mase.frontend.onnx_formats import dtype_name
from mase.graph import META, Record

Import = Callable[[Builder, Step], Value | Sequence[Value]]
LAYOUTS: dict[str, Import] = {}  # by operator; filled below


def imports(*types: str) -> Callable[[Import], Import]:
    """Return a decorator that enters a function for the operators named."""

    def enter(function: Import) -> Import:
        LAYOUTS.update(dict.fromkeys(types, function))
        return function

    return enter


def _layout(b: Builder, at: Step, x: fx.Node, function: str, **attrs: Any) -> fx.Node:
    return b.emit(at, "layout", [x], {"function": function, **attrs})


def _reshaped(b: Builder, step: Step, x: fx.Node, target: Sequence[int]) -> fx.Node:
    """Give a value another shape; axis 0 stays the batch where its size stays."""
    shape = b.shape(x)
    if shape == tuple(target):
        return x
    if not target or math.prod(target) != math.prod(shape):
        raise step.refuse(f"{shape} cannot become {tuple(target)}")
    if shape and target[0] == shape[0]:
        return b.emit(step, "layout", [x], {"shape": list(target[1:])})
    return _layout(b, step, x, "view", shape=[-1, *target[1:]])


@imports("Reshape")
def _reshape(b: Builder, step: Step) -> Value:
    x, target = b.node(step, 0), b.numbers(step, "shape", 1)
    assert target is not None
    shape = b.shape(x)
    if not step.attrs.get("allowzero", 0):
        target = [shape[i] if size == 0 else size for i, size in enumerate(target)]
    if target[:1] == [b.written_batch] and shape[0] == BATCH:
        target[0] = BATCH  # the file counts on the batch that it was written with
    if -1 in target:
        target[target.index(-1)] = math.prod(shape) // max(1, -math.prod(target))
    return _reshaped(b, step, x, target)


@imports("Flatten")
def _flatten(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    shape, axis = b.shape(x), step.attrs.get("axis", 1)
    axis = axis % len(shape) if axis < 0 else axis
    if axis == 0 and len(shape) and shape[0] == BATCH:
        if b.written_batch != 1:
            raise step.refuse("axis 0 joins all samples of the batch into one row; allowed is axis 1 or more")
        axis = 1  # one sample in a row, as the file was written
    return _reshaped(b, step, x, [math.prod(shape[:axis]), math.prod(shape[axis:])])


@imports("Transpose")
def _transpose(b: Builder, step: Step) -> Value:
    x = b.value(step, 0)
    rank = len(b.shape(x))
    axes = list(step.attrs.get("perm", reversed(range(rank))))
    if isinstance(x, Constant):
        return x.transposed() if axes == [1, 0] else Constant(x.real().permute(axes))
    return permuted(b, step, x, axes)


def permuted(b: Builder, step: Step, x: fx.Node, axes: Sequence[int]) -> fx.Node:
    """Put the axes of a value in another order; one that was put in another order just before is put straight."""
    record: Record = x.meta[META]
    while record.kind == "layout" and record.attrs.get("function") == "permute" and record.output.format is None:
        axes, x = [record.attrs["axes"][axis] for axis in axes], x.args[0]
        record = x.meta[META]
    return x if list(axes) == list(range(len(axes))) else _layout(b, step, x, "permute", axes=list(axes))


@imports("Squeeze", "Unsqueeze")
def _squeeze(b: Builder, step: Step) -> Value:
    x, axes = b.node(step, 0), b.numbers(step, "axes", 1)
    shape = b.shape(x)
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    adds = step.type == "Unsqueeze"
    rank = len(shape) + len(axes) * adds
    for axis in sorted((axis % rank for axis in axes), reverse=not adds):
        x = _layout(b, step, x, step.type.lower(), axis=axis)
    return x


@imports("Concat")
def _concat(b: Builder, step: Step) -> Value:
    values = [b.value(step, i) for i in range(len(step.inputs))]
    like = next(value for value in values if isinstance(value, fx.Node))
    axis = step.attrs["axis"] % len(b.shape(like))
    nodes = []
    for value in values:
        if isinstance(value, Constant):
            rows = plain(value).tensor
            if axis > 0 and repeats(rows):
                first = b.holder(step, Constant(rows[:1], value.name))
                value = b.call(step, rows_like, [first, like], "one row for each sample has no typed kind")
            else:
                value = b.holder(step, value)
        nodes.append(value)
    return b.emit(step, "layout", nodes, {"function": "concat", "axis": axis})


def rows_like(row: Tensor, like: Tensor) -> Tensor:
    """Repeat a row ``[1, ...]`` for each sample of another tensor."""
    return row.expand(like.shape[0], *row.shape[1:])


@imports("Slice")
def _slice(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    starts, ends = b.numbers(step, "starts", 1), b.numbers(step, "ends", 2)
    if starts is None or ends is None:
        raise step.refuse("has no starts or no ends")
    axes = b.numbers(step, "axes", 3) or list(range(len(starts)))
    steps = b.numbers(step, "steps", 4) or [1] * len(starts)
    for axis, start, end, pace in zip(axes, starts, ends, steps, strict=True):
        if pace < 1:
            raise step.refuse(f"steps by {pace}; allowed are steps forward")
        axis = axis % len(b.shape(x))
        size = b.shape(x)[axis]
        if start in (0, -size) and end >= size and pace == 1:
            continue
        x = _layout(b, step, x, "slice", axis=axis, start=start, end=None if end >= size else end, step=pace)
    return x


@imports("Split")
def _split(b: Builder, step: Step) -> list[Value]:
    x, axis = b.node(step, 0), step.attrs.get("axis", 0)
    size, count = b.shape(x)[axis], len(step.outputs)
    sizes = b.numbers(step, "split", 1) or [min(-(-size // count), size - i * -(-size // count)) for i in range(count)]
    starts = [sum(sizes[:i]) for i in range(count)]
    parts = zip(starts, sizes, strict=True)
    return [_layout(b, step, x, "slice", axis=axis % len(b.shape(x)), start=s, end=s + n) for s, n in parts]


@imports("Gather")
def _gather(b: Builder, step: Step) -> Value:
    data, places = b.value(step, 0), b.value(step, 1)
    axis = step.attrs.get("axis", 0)
    if isinstance(places, fx.Node):
        if not isinstance(data, Constant) or data.tensor.ndim != 2 or axis != 0:
            raise step.refuse("indices are computed; allowed is a table of two axes, read by rows")
        return b.emit(step, "embedding", [places], {"from_end": True}, {"weight": data})
    x, indices = b.node(step, 0), plain(places).tensor
    axis = axis % len(b.shape(x))
    if indices.ndim == 0:
        return _layout(b, step, x, "select", axis=axis, index=int(indices))
    if indices.ndim > 1:
        raise step.refuse(f"indices have {indices.ndim} axes; allowed are 0 and 1")
    return _layout(b, step, x, "gather", axis=axis, indices=[int(i) % b.shape(x)[axis] for i in indices])


@imports("Expand")
def _expand(b: Builder, step: Step) -> Value:
    x, wanted = b.node(step, 0), b.numbers(step, "shape", 1)
    assert wanted is not None
    shape = b.shape(x)
    target = list(torch.broadcast_shapes(shape, tuple(wanted)))
    if target == list(shape):
        return x
    kept = [1] * (len(target) - len(shape)) + list(shape)
    free = len(target) == len(shape)
    return _layout(
        b, step, x, "expand", shape=[-1 if free and t == k else t for t, k in zip(target, kept, strict=True)]
    )


@imports("Tile")
def _tile(b: Builder, step: Step) -> Value:
    repeats = b.numbers(step, "repeats", 1)
    return _layout(b, step, b.node(step, 0), "repeat", repeats=repeats)


@imports("Pad")
def _pad(b: Builder, step: Step) -> Value:
    x, pads = b.node(step, 0), b.numbers(step, "pads", 1)
    assert pads is not None
    rank = len(b.shape(x))
    axes = [axis % rank for axis in (b.numbers(step, "axes", 3) or range(rank))]
    sides = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    first = min((axis for axis, ends in sides.items() if any(ends)), default=rank)
    padding = [side for axis in reversed(range(first, rank)) for side in sides.get(axis, (0, 0))]
    mode = {"edge": "replicate", "wrap": "circular"}.get(
        step.attrs.get("mode", "constant"), step.attrs.get("mode", "constant")
    )
    attrs = {"value": b.number(step, "value", 2) or 0.0} if mode == "constant" else {}
    return x if not padding else _layout(b, step, x, "pad", padding=padding, mode=mode, **attrs)


@imports("Cast")
def _cast(b: Builder, step: Step) -> Value:
    x, name = b.node(step, 0), dtype_name(step.attrs["to"])
    if name not in TYPES:
        raise step.refuse(f"casts to {name}; allowed: {', '.join(TYPES)}")
    return x if b.samples[x.name].dtype == getattr(torch, name) else _layout(b, step, x, "cast", dtype=name)


@imports("Identity")
def _identity(b: Builder, step: Step) -> Value:
    return b.value(step, 0)


@imports("Dropout")
def _dropout(b: Builder, step: Step) -> Value | Sequence[Value]:
    """Return the input, and where it is asked for the mask that keeps all."""
    if b.given(step, 2) and bool(b.constant(step, 2).real()):
        raise step.refuse("is in training mode; export the model in evaluation mode")
    x = b.value(step, 0)
    if len(step.outputs) < 2 or not step.outputs[1]:
        return x
    dtype = torch.bool if b.opset >= 10 else b.sample(x).dtype
    reason = "a mask of the input's shape has no typed kind"
    return [x, b.call(step, all_kept if dtype == torch.bool else torch.ones_like, [b.node(step, 0)], reason)]


def all_kept(x: Tensor) -> Tensor:
    """Return the mask of a Dropout that drops nothing."""
    return torch.ones_like(x, dtype=torch.bool)


@imports("Shape")
def _shape(b: Builder, step: Step) -> Value:
    shape = b.shape(b.value(step, 0))
    return Constant(torch.tensor(shape[slice(step.attrs.get("start", 0), step.attrs.get("end"))], dtype=torch.int64))
