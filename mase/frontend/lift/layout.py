"""layout: reshape, permute, slice, concat and their kin; sizes that follow from the input need no node."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, fx

from mase.frontend.lift.nodes import (
    Node,
    arguments,
    dtype_name,
    integers,
    is_free,
    is_op,
    number,
    op,
    same,
    symbolic,
    value,
)
from mase.frontend.lift.work import Typed, Work, rule

RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze")


@rule(*RESHAPES)
def reshape(work: Work, node: Node) -> Typed | None:
    """Match the same elements in another shape; a free size becomes -1."""
    x = node.all_input_nodes[0]
    if value(x).dtype != value(node).dtype:  # a view of the same bits as another type
        return None
    before, after = symbolic(x), symbolic(node)
    keeps = len(before) > 0 and len(after) > 0 and same(before[0], after[0])
    wanted = after[1:] if keeps else after
    sizes = [-1 if is_free(size) else number(size) for size in wanted]
    if sizes.count(-1) > 1:
        return None
    return _layout(x, "reshape" if keeps else "view", shape=sizes)


@rule("permute", "transpose", "t", "numpy_T", "mT")
def permute(work: Work, node: Node) -> Typed | None:
    """Match another order of axes."""
    x, given = node.all_input_nodes[0], arguments(node)
    axes = list(range(len(symbolic(x))))
    if is_op(node, "permute"):
        return _layout(x, "permute", axes=[axis % len(axes) for axis in given["dims"]])
    if is_op(node, "t", "numpy_T"):
        return _layout(x, "permute", axes=axes[::-1])
    a, b = (-2, -1) if is_op(node, "mT") else (given["dim0"], given["dim1"])
    a, b = a % len(axes), b % len(axes)
    axes[a], axes[b] = axes[b], axes[a]
    return _layout(x, "permute", axes=axes)


@rule("slice")
def cut(work: Work, node: Node) -> Typed | None:
    """Match a range along an axis; its ends may be sizes of other tensors."""
    given, inputs = arguments(node), [node.args[0]]
    bounds = {name: _size(inputs, given[name]) for name in ("start", "end", "step")}
    if any(isinstance(bound, fx.Node) for bound in bounds.values()):
        return None
    if isinstance(bounds["end"], int) and bounds["end"] >= sys.maxsize:
        bounds["end"] = None
    return Typed("layout", tuple(inputs), {"function": "slice", "axis": given["dim"], **bounds})


def _size(inputs: list[Node], size: Any) -> Any:
    """Return a number as it is, and ``[input, axis]`` for the size of a tensor, which becomes an input."""
    if not is_op(size, "sym_size"):
        return size
    if size.args[0] not in inputs[1:]:
        inputs.append(size.args[0])
    return [inputs.index(size.args[0], 1), size.args[1]]


@rule("select")
def select(work: Work, node: Node) -> Typed | None:
    """Match one position along an axis."""
    given = arguments(node)
    if isinstance(given["index"], fx.Node):
        return None
    return _layout(given["self"], "select", axis=given["dim"], index=given["index"])


@rule("index")
def gather(work: Work, node: Node) -> Typed | None:
    """Match constant positions along one axis."""
    x, places = node.args[:2]
    given = [axis for axis, index in enumerate(places) if index is not None]
    index = work.constant(places[given[0]]) if len(given) == 1 else None
    if index is None or index.ndim != 1 or index.dtype != torch.int64 or is_free(symbolic(x)[given[0]]):
        return None
    size = number(symbolic(x)[given[0]])
    return _layout(x, "gather", axis=given[0], indices=[int(i) % size for i in index])


@rule("getitem")
def part(work: Work, node: Node) -> Typed | None:
    """Match one result of a split, as a slice, and one of an unbinding, as a position."""
    whole, index = node.args
    if is_op(whole, "unbind"):
        return _layout(whole.args[0], "select", axis=arguments(whole)["dim"], index=index)
    if not is_op(whole, "split", "split_with_sizes", "chunk", "tensor_split"):
        return None
    axis = arguments(whole)["dim"]
    sizes = [found.shape[axis] for found in value(whole)]
    if any(is_free(size) for size in sizes):
        return None
    start = sum(number(size) for size in sizes[:index])
    return _layout(whole.args[0], "slice", axis=axis, start=start, end=start + number(sizes[index]), step=1)


@rule("cat", "concat", "stack")
def concat(work: Work, node: Node) -> Typed | None:
    """Match several tensors one behind another."""
    given = arguments(node)
    function = "stack" if is_op(node, "stack") else "concat"
    return Typed("layout", tuple(given["tensors"]), {"function": function, "axis": given["dim"]})


@rule("expand")
def expand(work: Work, node: Node) -> Typed | None:
    """Match a repetition without copies; sizes that the input has stay free, others may be those of other tensors."""
    inputs, given = [node.args[0]], arguments(node)["size"]
    before, after = symbolic(node.args[0]), symbolic(node)
    new = len(after) - len(before)
    kept = [i >= new and same(before[i - new], size) for i, size in enumerate(after)]
    sizes = [-1 if keep else _size(inputs, size) for keep, size in zip(kept, given, strict=True)]
    if any(isinstance(size, fx.Node) for size in sizes):
        return None
    return Typed("layout", tuple(inputs), {"function": "expand", "shape": sizes})


@rule("pad", "constant_pad_nd")
def pad(work: Work, node: Node) -> Typed | None:
    """Match a border of zeros, of copies or of reflections."""
    given = arguments(node)
    padding = integers(given["pad"])
    if padding is None:
        return None
    attrs: dict[str, Any] = {"padding": padding, "mode": given.get("mode", "constant")}
    if given["value"] is not None:
        attrs["value"] = given["value"]
    return _layout(given["self"], "pad", **attrs)


@rule("where")
def always(work: Work, node: Node) -> Typed | None:
    """Match a choice that a constant makes in favour of its first tensor everywhere."""
    given = arguments(node)
    condition, x = work.constant(given["condition"]), given["self"]
    if condition is None or not bool(condition.all()) or any(is_free(size) for size in symbolic(node)):
        return None
    return _layout(x, "expand", shape=[number(size) for size in symbolic(node)])


@rule("flip", "roll", "repeat", "contiguous", "clone", "pixel_shuffle")
def other(work: Work, node: Node) -> Typed | None:
    """Match what takes its arguments as they are."""
    given, name = arguments(node), op(node)
    x = given["self"]
    if name in ("contiguous", "clone"):
        plain = given.get("memory_format") in (None, 0, 1, torch.contiguous_format, torch.preserve_format)
        return _layout(x, "contiguous") if plain else None
    found = {"flip": {"axes": "dims"}, "roll": {"shifts": "shifts", "axes": "dims"}, "repeat": {"repeats": "repeats"}}
    names = found.get(name, {"factor": "upscale_factor"})
    values = {attr: given[argument] for attr, argument in names.items()}
    if any(integers(item) is None for item in values.values()) or (name == "roll" and not given["dims"]):
        return None
    return _layout(x, name, **values)


@rule("to", "_to_copy", "type_as")
def cast(work: Work, node: Node) -> Typed | None:
    """Match a cast to another dtype."""
    x = node.all_input_nodes[0]
    if value(x).device != value(node).device:
        return None
    return _layout(x, "cast", dtype=dtype_name(value(node).dtype))


def _layout(x: Any, function: str, **attrs: Any) -> Typed | None:
    if not isinstance(x, fx.Node) or not isinstance(value(x), Tensor):
        return None
    return Typed("layout", (x,), {"function": function, **attrs})
