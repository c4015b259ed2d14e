"""Layouts as people write them: every function, method and index that only moves elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from mase.frontend.calls import Call, Lifted, Opaque, Rule, has_node, kind_of, listed, shapes_of
from mase.graph import Json


def _axes(call: Call, place: int, of: fx.Node) -> list[int]:
    """Return axes that are given as one tuple or one by one."""
    given = call.plain(place, "dims", call.plain(place, "dim"))
    many: Any = call.node.args[place:] if isinstance(given, int) else given
    if many is None or has_node(many):
        raise Opaque("the axes are not given")
    rank = len(kind_of(of).shape)
    return [axis % rank for axis in many]


def _layout(inputs: Sequence[fx.Node], function: str, **attrs: Json) -> Lifted:
    return Lifted("layout", inputs, {"function": function, **attrs})


def reshaped(x: fx.Node, node: fx.Node, sizes: Sequence[Any] = ()) -> Lifted:
    """Return a change of shape that keeps the order of elements: of each sample if possible, else of the whole.

    Args:
        node: gives the shape. sizes: how the model says it, where it does.
    """
    (before, before2), (after, after2) = shapes_of(x), shapes_of(node)
    free = [i for i, (a, b) in enumerate(zip(after, after2, strict=True)) if a != b]
    shape = [-1 if i in free else size for i, size in enumerate(after)]
    kept = len(before) > 1 and len(after) > 1 and before[0] == after[0] and before2[0] == after2[0]
    if kept and sum(i > 0 for i in free) <= 1:
        return Lifted("layout", [x], {"shape": shape[1:]})
    if len(free) <= 1:
        return _layout([x], "view", shape=shape)
    if len(sizes) != len(after):
        raise Opaque("its shape has several free sizes")
    inputs, numbers = sized(x, [sizes[i] if i in free else size for i, size in enumerate(after)])
    return _layout(inputs, "view", shape=numbers)


def _reshape(call: Call) -> Lifted:
    given = call.arg(1, "shape") if call.name == "reshape" else ()
    sizes = given if isinstance(given, tuple | list) else call.node.args[1:]
    return reshaped(call.tensor(0, "input"), call.node, sizes)


def _view(call: Call) -> Lifted:
    if isinstance(call.arg(1, "dtype"), torch.dtype):
        raise Opaque("it reads the bits of another dtype")
    given = call.arg(1, "size")
    sizes = given if isinstance(given, tuple | list) else call.node.args[1:]
    return reshaped(call.tensor(0, "input"), call.node, sizes)


def _permute(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return _layout([x], "permute", axes=_axes(call, 1, x))


def _transpose(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    axes = list(range(len(kind_of(x).shape)))
    a, b = call.axis(1, "dim0", x), call.axis(2, "dim1", x)
    axes[a], axes[b] = axes[b], axes[a]
    return _layout([x], "permute", axes=axes)


def _movedim(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    rank = len(kind_of(x).shape)
    source, target = ([a % rank for a in listed(call.plain(i, n), 1)] for i, n in ((1, "source"), (2, "destination")))
    axes = [a for a in range(rank) if a not in source]
    for a, place in sorted(zip(source, target, strict=True), key=lambda pair: pair[1]):
        axes.insert(place, a)
    return _layout([x], "permute", axes=axes)


def _t(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return _layout([x], "permute", axes=list(range(len(kind_of(x).shape)))[::-1])


def _getattr(call: Call) -> Lifted:
    x, name = call.tensor(0, "input"), call.plain(1, "name")
    axes = list(range(len(kind_of(x).shape)))
    if name == "T":
        return _layout([x], "permute", axes=axes[::-1])
    if name == "mT":
        return _layout([x], "permute", axes=[*axes[:-2], axes[-1], axes[-2]])
    raise Opaque(f"no typed kind for .{name}")


def _getitem(call: Call) -> Lifted:
    source, index = call.node.args
    assert isinstance(source, fx.Node)
    if isinstance(kind_of(source), tuple):
        return _piece(source, index)
    items = list(index) if isinstance(index, tuple) else [index]
    if any(not (i is None or i is Ellipsis or type(i) is int or isinstance(i, slice)) for i in items):
        raise Opaque("it is indexed by a tensor, or by a size that is free")
    cuts = [(axis, item) for axis, item in enumerate(items) if item != slice(None)]
    if len(cuts) == 1 and None not in items and Ellipsis not in items:
        axis, item = cuts[0]
        if isinstance(item, int):
            return _layout([source], "select", axis=axis, index=item)
        assert isinstance(item, slice)
        inputs, (start, end) = sized(source, [item.start, item.stop])
        return _layout(inputs, "slice", axis=axis, start=start, end=end, step=item.step)
    if any(has_node((i.start, i.stop, i.step)) for i in items if isinstance(i, slice)):
        raise Opaque("it cuts at a size that is free")
    return _layout([source], "index", index=[index_to_json(item) for item in items])


def sized(x: fx.Node, values: Sequence[Any]) -> tuple[list[fx.Node], list[Json]]:
    """Return the inputs and numbers of a layout whose sizes may be those of other tensors: ``[input, axis]``.

    Raises:
        Opaque: a size is computed.
    """
    inputs, out = [x], []
    for value in values:
        if isinstance(value, fx.Node):
            if value.target != "size" or len(value.args) != 2 or has_node(value.args[1]):
                raise Opaque("it takes a computed size that is free")
            source, axis = value.args
            assert isinstance(source, fx.Node)
            inputs += [] if source in inputs else [source]
            value = [inputs.index(source), axis]
        out.append(value)
    return inputs, out


def index_to_json(item: Any) -> Json:
    """Return one item of an index as data: a number, ``new``, ``...``, or [start, end, step]."""
    if isinstance(item, slice):
        return [item.start, item.stop, item.step]
    return "new" if item is None else "..." if item is Ellipsis else item


def _piece(source: fx.Node, index: Any) -> Lifted:
    """Return one of the parts that a tensor was cut into, as a slice of that tensor."""
    name = source.target if isinstance(source.target, str) else getattr(source.target, "__name__", "")
    x = source.args[0]
    if name not in CUTS or not isinstance(x, fx.Node) or not isinstance(index, int):
        raise Opaque("it takes one of several results")
    given = CUTS[name]
    axis = Call(source, name).plain(given, "dim", 0) % len(kind_of(x).shape)
    parts, parts2 = kind_of(source), kind_of(source, 1)
    if name == "unbind":
        return _layout([x], "select", axis=axis, index=index % len(parts))
    index %= len(parts)
    sizes = [part.shape[axis] for part in parts]
    if sizes != [part.shape[axis] for part in parts2]:
        raise Opaque("it is cut at a size that is free")
    return _layout([x], "slice", axis=axis, start=sum(sizes[:index]), end=sum(sizes[: index + 1]), step=None)


CUTS = {"chunk": 2, "split": 2, "split_with_sizes": 2, "tensor_split": 2, "unbind": 1}  # place of the axis


def _narrow(call: Call) -> Lifted:
    x, start, length = call.tensor(0, "input"), call.plain(2, "start"), call.plain(3, "length")
    return _layout([x], "slice", axis=call.axis(1, "dim", x), start=start, end=start + length, step=None)


def _select(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return _layout([x], "select", axis=call.axis(1, "dim", x), index=call.plain(2, "index"))


def _concat(function: str) -> Rule:
    def rule(call: Call) -> Lifted:
        parts = call.arg(0, "tensors")
        if not isinstance(parts, tuple | list) or not all(isinstance(part, fx.Node) for part in parts):
            raise Opaque("its parts are not all traced tensors")
        return _layout(list(parts), function, axis=call.plain(1, "dim", 0))

    return rule


def _expand(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    (before, before2), (after, after2) = shapes_of(x), shapes_of(call.node)
    lead, given = len(after) - len(before), call.arg(1, "size")
    sizes = given if isinstance(given, tuple | list) else call.node.args[1:]
    shape: list[Any] = []
    for i, (a, b) in enumerate(zip(after, after2, strict=True)):
        kept = i >= lead and (before[i - lead], before2[i - lead]) == (a, b)
        if not kept and a != b and (call.name == "expand_as" or len(sizes) != len(after)):
            raise Opaque("it repeats as often as a size that is free")
        shape.append(-1 if kept else a if a == b else sizes[i])
    inputs, numbers = sized(x, shape)
    return _layout(inputs, "expand", shape=numbers)


def _repeat(call: Call) -> Lifted:
    given = call.plain(1, "repeats")
    repeats = list(call.node.args[1:]) if isinstance(given, int) else given
    if has_node(repeats):
        raise Opaque("it repeats as often as a size that is free")
    return _layout([call.tensor(0, "input")], "repeat", repeats=list(repeats))


def _repeat_each(call: Call) -> Lifted:
    x, repeats = call.tensor(0, "input"), call.plain(1, "repeats")
    if not isinstance(repeats, int):
        raise Opaque("it repeats elements differently")
    return _layout([x], "repeat_each", repeats=repeats, axis=call.axis(2, "dim", x))


def _pad(call: Call) -> Lifted:
    attrs = {
        "padding": list(call.plain(1, "pad")),
        "mode": call.plain(2, "mode", "constant"),
        "value": call.plain(3, "value"),
    }
    return _layout([call.tensor(0, "input")], "pad", **attrs)


def _flip(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return _layout([x], "flip", axes=_axes(call, 1, x))


def _roll(call: Call) -> Lifted:
    x, axes = call.tensor(0, "input"), call.plain(2, "dims")
    if axes is None:
        raise Opaque("it rolls the flat tensor")
    return _layout([x], "roll", shifts=listed(call.plain(1, "shifts"), 1), axes=listed(axes, 1))


def _factor(function: str) -> Rule:
    names = {"pixel_shuffle": "upscale_factor", "pixel_unshuffle": "downscale_factor"}
    return lambda call: _layout([call.tensor(0, "input")], function, factor=call.plain(1, names[function]))


def _contiguous(call: Call) -> Lifted:
    if call.node.kwargs or len(call.node.args) > 1:
        raise Opaque("it asks for a memory format")
    return _layout([call.tensor(0, "input")], "contiguous")


def _cast(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    if call.node.kwargs.keys() - {"dtype"} or len(call.node.args) > 2:
        raise Opaque("it moves the tensor to a device, or copies it")
    return _layout([x], "cast", dtype=kind_of(call.node).dtype)


LAYOUTS: dict[str, Rule] = {
    **dict.fromkeys(("reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"), _reshape),
    "view": _view,
    "permute": _permute,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "swapdims": _transpose,
    "movedim": _movedim,
    "moveaxis": _movedim,
    "t": _t,
    "getattr": _getattr,
    "getitem": _getitem,
    "narrow": _narrow,
    "select": _select,
    "cat": _concat("concat"),
    "concat": _concat("concat"),
    "concatenate": _concat("concat"),
    "stack": _concat("stack"),
    "expand": _expand,
    "expand_as": _expand,
    "repeat": _repeat,
    "repeat_interleave": _repeat_each,
    "pad": _pad,
    "flip": _flip,
    "roll": _roll,
    "pixel_shuffle": _factor("pixel_shuffle"),
    "pixel_unshuffle": _factor("pixel_unshuffle"),
    "contiguous": _contiguous,
    **dict.fromkeys(("to", "float", "half", "double", "bfloat16", "int", "long", "bool", "type_as"), _cast),
}  # by name, as in mase/frontend/functions.py
