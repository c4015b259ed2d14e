"""How ONNX's operators that move elements become nodes of kind layout; also tables that indices read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from mase.frontend.onnx_builder import TYPES, Builder, Constant, Step, Value, plain, told_shape
from mase.frontend.onnx_formats import dtype_name
from mase.graph import META, Record

ENDLESS = 2**31 - 1  # an end that no axis reaches
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


Sizes = Sequence[int]


def _reshaped(b: Builder, step: Step, x: fx.Node, targets: tuple[Sizes, Sizes]) -> fx.Node:
    """Give a value another shape, told for both examples; axis 0 stays the batch where its size stays."""
    shapes, (first, second) = b.shapes(x), (tuple(target) for target in targets)
    if shapes == (first, second):
        return x
    for shape, target in zip(shapes, (first, second), strict=True):
        if not target or math.prod(target) != math.prod(shape):
            raise step.refuse(f"{told_shape(*shapes)} cannot become {told_shape(first, second)}")
    free = [axis for axis, (p, q) in enumerate(zip(first, second, strict=True)) if p != q]
    if len(free) > 1:
        raise step.refuse(f"gives {told_shape(first, second)}, where several axes follow from the batch")
    if shapes[0] and (first[0], second[0]) == (shapes[0][0], shapes[1][0]) and free in ([], [0]):
        return b.emit(step, "layout", [x], {"shape": list(first[1:])})
    return _layout(b, step, x, "view", shape=[-1 if axis in free else size for axis, size in enumerate(first)])


@imports("Reshape")
def _reshape(b: Builder, step: Step) -> Value:
    x, found = b.node(step, 0), b.sizes(step, "shape", 1)
    assert found is not None
    copies = not step.attrs.get("allowzero", 0)
    leads = b.free(x)[:1] == [True] and found[0][:1] == found[1][:1]
    first, second = (
        _target(b, step, shape, list(target), batch, leads, copies)
        for shape, target, batch in zip(b.shapes(x), found, b.batches, strict=True)
    )
    return _reshaped(b, step, x, (first, second))


def _target(
    b: Builder, step: Step, shape: Sizes, target: list[int], batch: int, leads: bool, copies: bool
) -> list[int]:
    """Return the shape that a Reshape gives an example of ``batch`` samples.

    Args:
        leads: whether axis 0 follows from the batch, but its new size does not. copies: whether 0 keeps a size.
    """
    if copies:
        if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)):
            raise step.refuse(f"shape {target} keeps an axis that the input does not have")
        target = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
        leads = leads and target[0] != shape[0] if target else leads
    written = b.written_batch
    if leads and written and target and target[0] > 0 and target[0] % written == 0:
        target[0] = target[0] // written * batch  # the file counts on the batch that it was written with
    if -1 in target:
        rest = -math.prod(target)
        if rest < 1 or math.prod(shape) % rest:
            raise step.refuse(f"{tuple(shape)} cannot become {tuple(target)} on a batch of {batch}")
        target[target.index(-1)] = math.prod(shape) // rest
    return target


@imports("Flatten")
def _flatten(b: Builder, step: Step) -> Value:
    x, axis = b.node(step, 0), step.attrs.get("axis", 1)
    first, second = b.shapes(x)
    axis = axis if axis == len(first) else step.axis(axis, len(first))
    if axis == 0 and b.free(x)[:1] == [True]:
        if b.written_batch != 1:
            raise step.refuse("axis 0 joins all samples of the batch into one row; allowed is axis 1 or more")
        axis = 1  # one sample in a row, as the file was written
    first, second = ((math.prod(shape[:axis]), math.prod(shape[axis:])) for shape in (first, second))
    return _reshaped(b, step, x, (first, second))


@imports("Transpose")
def _transpose(b: Builder, step: Step) -> Value:
    x = b.value(step, 0)
    rank = len(b.shape(x))
    axes = list(step.attrs.get("perm", reversed(range(rank))))
    if sorted(axes) != list(range(rank)):
        raise step.refuse(f"perm is {axes} on an input of {rank} axes; allowed is each axis once")
    if isinstance(x, Constant):
        return x.transposed() if axes == [1, 0] else Constant(x.real().permute(axes))
    return permuted(b, step, x, axes)


def permuted(b: Builder, step: Step, x: fx.Node, axes: Sequence[int]) -> fx.Node:
    """Put the axes of a value in another order; one that was put in another order just before is put straight."""
    record: Record = x.meta[META]
    while record.kind == "layout" and record.attrs.get("function") == "permute" and record.output.format is None:
        axes, x = [record.attrs["axes"][axis] for axis in axes], x.all_input_nodes[0]
        record = x.meta[META]
    return x if list(axes) == list(range(len(axes))) else _layout(b, step, x, "permute", axes=list(axes))


@imports("Squeeze", "Unsqueeze")
def _squeeze(b: Builder, step: Step) -> Value:
    x, axes = b.node(step, 0), b.numbers(step, "axes", 1)
    shape = b.shape(x)
    adds = step.type == "Unsqueeze"
    if axes is None:
        if any(b.free(x)) and b.written_batch in (None, 1):
            raise step.refuse("drops every axis of size 1, a batch of one sample included; give the axes")
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    rank = len(shape) + len(axes) * adds
    axes = sorted((step.axis(axis, rank) for axis in axes), reverse=not adds)
    if len(set(axes)) < len(axes):
        raise step.refuse(f"names an axis twice: {axes}; allowed is each axis once")
    for axis in axes:
        if not adds:
            b.keep_batch(step, x, axis, "drops")
            if shape[axis] != 1:
                raise step.refuse(f"drops axis {axis} of size {shape[axis]}; allowed is size 1")
    for axis in axes:
        x = _layout(b, step, x, step.type.lower(), axis=axis)
    return x


@imports("Concat")
def _concat(b: Builder, step: Step) -> Value:
    values = [b.value(step, i, varied=True) for i in range(len(step.inputs))]
    like = next(value for value in values if isinstance(value, fx.Node))
    axis = step.axis(step.attrs["axis"], len(b.shape(like)))
    nodes = []
    for i, value in enumerate(values):
        row = b.one_row(plain(value)) if isinstance(value, Constant) and axis > 0 and b.free(like)[0] else None
        if row is not None:
            first = b.holder(step, replace(row, name=row.name or getattr(value, "name", "")))
            nodes.append(b.call(step, rows_like, [first, like], "one row for each sample has no typed kind"))
        else:
            nodes.append(b.node(step, i))
    return b.emit(step, "layout", nodes, {"function": "concat", "axis": axis})


def rows_like(row: Tensor, like: Tensor) -> Tensor:
    """Repeat a row ``[1, ...]`` for each sample of another tensor."""
    return row.expand(like.shape[0], *row.shape[1:])


@imports("Slice")
def _slice(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    starts, ends = b.numbers(step, "starts", 1), b.sizes(step, "ends", 2)
    if starts is None or ends is None:
        raise step.refuse("has no starts or no ends")
    axes = b.numbers(step, "axes", 3) or list(range(len(starts)))
    steps = b.numbers(step, "steps", 4) or [1] * len(starts)
    if len({len(numbers) for numbers in (starts, ends[0], axes, steps)}) > 1:
        raise step.refuse(
            f"has starts {starts}, ends {ends[0]}, axes {axes} and steps {steps}; allowed are as many each"
        )
    for axis, start, first, second, pace in zip(axes, starts, *ends, steps, strict=True):
        if pace < 1:
            raise step.refuse(f"steps by {pace}; allowed are steps forward")
        axis = step.axis(axis, len(b.shape(x)))
        size = b.shape(x)[axis]
        if b.free(x)[axis]:
            if start == 0 and pace == 1 and _all(b, x, axis, (first, second)):
                continue
            b.keep_batch(step, x, axis, "slices")
        if first != second:
            raise step.refuse(f"ends axis {axis} at a number that follows from the batch; allowed is a number")
        if (start == 0 or start <= -size) and first >= size and pace == 1:
            continue
        x = _layout(b, step, x, "slice", axis=axis, start=start, end=None if first >= size else first, step=pace)
    return x


def _all(b: Builder, x: fx.Node, axis: int, ends: tuple[int, int]) -> bool:
    """Tell whether a slice that starts at 0 takes all of an axis that follows from the batch, whatever its size."""
    if ends == tuple(shape[axis] for shape in b.shapes(x)):
        return True
    written = b.written_batch and b.written_batch * b.shape(x)[axis] / b.batches[0]
    return ends[0] == ends[1] and ends[0] >= (written or ENDLESS)


@imports("Split")
def _split(b: Builder, step: Step) -> list[Value]:
    x = b.node(step, 0)
    axis = step.axis(step.attrs.get("axis", 0), len(b.shape(x)))
    b.keep_batch(step, x, axis, "splits")
    size, count = b.shape(x)[axis], len(step.outputs)
    if step.attrs.get("num_outputs", count) != count:
        raise step.refuse(f"num_outputs is {step.attrs['num_outputs']}; the node has {count}")
    sizes = b.numbers(step, "split", 1) or [min(-(-size // count), size - i * -(-size // count)) for i in range(count)]
    if len(sizes) != count or min(sizes) < 0 or sum(sizes) != size:
        raise step.refuse(f"splits {size} elements into {sizes} for {count} outputs; these do not fit")
    starts = [sum(sizes[:i]) for i in range(count)]
    parts = zip(starts, sizes, strict=True)
    return [_layout(b, step, x, "slice", axis=axis, start=s, end=s + n) for s, n in parts]


@imports("Gather")
def _gather(b: Builder, step: Step) -> Value:
    data, places = b.value(step, 0), b.value(step, 1)
    axis = step.attrs.get("axis", 0)
    if isinstance(places, fx.Node):
        if not isinstance(data, Constant) or data.tensor.ndim != 2 or axis != 0:
            raise step.refuse("indices are computed; allowed is a table of two axes, read by rows")
        return b.emit(step, "embedding", [places], {"from_end": True}, {"weight": data})
    x, indices = b.node(step, 0), plain(places).tensor
    axis = step.axis(axis, len(b.shape(x)))
    b.keep_batch(step, x, axis, "picks from")
    size = b.shape(x)[axis]
    if indices.is_floating_point() or bool(((indices < -size) | (indices >= size)).any()):
        raise step.refuse(
            f"indices {indices.reshape(-1).tolist()[:8]} of {size} elements; allowed are {-size} to {size - 1}"
        )
    if indices.ndim == 0:
        return _layout(b, step, x, "select", axis=axis, index=int(indices))
    if indices.ndim > 1:
        raise step.refuse(f"indices have {indices.ndim} axes; allowed are 0 and 1")
    return _layout(b, step, x, "gather", axis=axis, indices=[int(i) % size for i in indices])


@imports("Expand")
def _expand(b: Builder, step: Step) -> Value:
    x, found = b.node(step, 0), b.sizes(step, "shape", 1)
    assert found is not None
    shapes, targets = b.shapes(x), []
    for shape, wanted, batch in zip(shapes, found, b.batches, strict=True):
        leads = len(shape) == len(wanted) and b.free(x)[:1] == [True] and shape[0] == batch
        if leads and wanted[0] == b.written_batch:
            wanted = [batch, *wanted[1:]]  # the file counts on the batch that it was written with
        try:
            targets.append(tuple(torch.broadcast_shapes(shape, tuple(wanted))))
        except RuntimeError:
            raise step.refuse(f"{told_shape(*shapes)} cannot become {told_shape(*found)}") from None
    if tuple(targets) == shapes:
        return x
    kept = [(1, 1)] * (len(targets[0]) - len(shapes[0])) + list(zip(*shapes, strict=True))
    sizes = []
    for axis, (wanted_sizes, own) in enumerate(zip(zip(*targets, strict=True), kept, strict=True)):
        if wanted_sizes[0] != wanted_sizes[1] and wanted_sizes != own:
            raise step.refuse(f"gives axis {axis} a size that follows from the batch; allowed is a number")
        sizes.append(-1 if wanted_sizes == own and axis >= len(kept) - len(shapes[0]) else wanted_sizes[0])
    return _layout(b, step, x, "expand", shape=sizes)


@imports("Tile")
def _tile(b: Builder, step: Step) -> Value:
    repeats = b.numbers(step, "repeats", 1)
    return _layout(b, step, b.node(step, 0), "repeat", repeats=repeats)


@imports("Pad")
def _pad(b: Builder, step: Step) -> Value:
    x, pads = b.node(step, 0), b.numbers(step, "pads", 1)
    assert pads is not None
    rank = len(b.shape(x))
    axes = [step.axis(axis, rank) for axis in (b.numbers(step, "axes", 3) or range(rank))]
    if len(pads) != 2 * len(axes):
        raise step.refuse(f"has {len(pads)} pads for {len(axes)} axes; allowed are two for each axis")
    sides = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    first = min((axis for axis, ends in sides.items() if any(ends)), default=rank)
    for axis, ends in sides.items():
        if any(ends):
            b.keep_batch(step, x, axis, "pads")
    padding = [side for axis in reversed(range(first, rank)) for side in sides.get(axis, (0, 0))]
    mode = {"edge": "replicate", "wrap": "circular"}.get(
        step.attrs.get("mode", "constant"), step.attrs.get("mode", "constant")
    )
    value = b.number(step, "value", 2) or 0
    attrs = {"value": value} if mode == "constant" else {}
    return x if not padding else _layout(b, step, x, "pad", padding=padding, mode=mode, **attrs)


@imports("Cast")
def _cast(b: Builder, step: Step) -> Value:
    x, name = b.node(step, 0), dtype_name(step.attrs["to"])
    if name not in TYPES:
        raise step.refuse(f"casts to {name}; allowed: {', '.join(TYPES)}")
    return x if b.sample(x).dtype == getattr(torch, name) else _layout(b, step, x, "cast", dtype=name)


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
    part = slice(step.attrs.get("start", 0), step.attrs.get("end"))
    first, second = (torch.tensor(shape[part], dtype=torch.int64) for shape in b.shapes(b.value(step, 0)))
    return Constant(first, varied=None if torch.equal(first, second) else second)
