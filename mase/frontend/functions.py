"""Which of PyTorch's functions, methods and operators becomes which kind: tables of rules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from mase.graph import Json, TensorType

SPEC = "mase_spec"  # in a traced node's meta: what it gave on the two samples (mase/frontend/values.py)
ROOMS = ("torch", "_operator", "builtins", "mase.ops")  # whose functions are known by name alone
Number = bool | int | float


class Opaque(Exception):
    """A call is no typed kind; the text says why."""


@dataclass(frozen=True)
class Lifted:
    """Say what a call is in the normal form.

    Args:
        kind: of the node. inputs: the nodes that it reads. attrs: its constants.
        operands: role -> node of the parameter that plays it.
    """

    kind: str
    inputs: Sequence[fx.Node]
    attrs: Mapping[str, Json] = field(default_factory=dict)
    operands: Mapping[str, fx.Node] = field(default_factory=dict)


class Call:
    """Read the arguments of a traced call by place or by name."""

    def __init__(self, node: fx.Node, name: str) -> None:
        self.node, self.name = node, name

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument."""
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)

    def tensor(self, place: int, name: str) -> fx.Node:
        """Return an argument that is a traced tensor."""
        found = self.arg(place, name)
        if not isinstance(found, fx.Node) or not isinstance(kind_of(found), TensorType):
            raise Opaque(f"{name} is no traced tensor")
        return found

    def plain(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument that is a constant all through."""
        found = self.arg(place, name, default)
        if _has_node(found):
            raise Opaque(f"{name} depends on a size that is free")
        return found

    def axis(self, place: int, name: str, of: fx.Node, default: Any = None) -> int:
        """Return an axis, counted from the first."""
        found = self.plain(place, name, default)
        if not isinstance(found, int):
            raise Opaque(f"{name} is {found!r}, not one axis")
        return found % len(kind_of(of).shape)

    def parameters(self, **places: tuple[int, str]) -> dict[str, fx.Node]:
        """Return the parameters that are given, by role."""
        found = {role: self.arg(place, name) for role, (place, name) in places.items()}
        for role, node in found.items():
            if node is not None and (not isinstance(node, fx.Node) or node.op != "get_attr"):
                raise Opaque(f"{role} is computed, not a parameter")
        return {role: node for role, node in found.items() if node is not None}


Rule = Callable[[Call], Lifted]


def lift_call(node: fx.Node) -> Lifted:
    """Return what a call is.

    Raises:
        Opaque: it is no kind; says why.
    """
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    room = getattr(target, "__module__", None) or "torch"
    known = isinstance(target, str) or room.startswith(ROOMS)
    rule = FUNCTIONS.get(name) if known else None
    if rule is None:
        raise Opaque("no typed kind for it")
    if not isinstance(kind_of(node), TensorType):
        raise Opaque("it gives no tensor")
    if "out" in node.kwargs:
        raise Opaque("it writes into a tensor")
    return rule(Call(node, name))


def kind_of(node: fx.Node, sample: int = 0) -> Any:
    """Return the type of a traced tensor, or what a node gave that is none."""
    return node.meta[SPEC][sample]


def shapes_of(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a traced tensor on both samples."""
    return kind_of(node, 0).shape, kind_of(node, 1).shape


def _has_node(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_node(item) for item in value)
    return isinstance(value, fx.Node)


def _listed(value: Any, count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def _axes(call: Call, place: int, of: fx.Node) -> list[int]:
    """Return axes that are given as one tuple or one by one."""
    given = call.plain(place, "dims", call.plain(place, "dim"))
    many: Any = call.node.args[place:] if isinstance(given, int) else given
    if many is None or _has_node(many):
        raise Opaque("the axes are not given")
    rank = len(kind_of(of).shape)
    return [axis % rank for axis in many]


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _linear(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return Lifted("linear", [x], {}, call.parameters(weight=(1, "weight"), bias=(2, "bias")))


def _conv(axes: int, transposed: bool = False) -> Rule:
    def rule(call: Call) -> Lifted:
        x, operands = call.tensor(0, "input"), call.parameters(weight=(1, "weight"), bias=(2, "bias"))
        padding = call.plain(4, "padding", 0)
        attrs: dict[str, Json] = {"stride": _listed(call.plain(3, "stride", 1), axes)}
        attrs["padding"] = padding if isinstance(padding, str) else _listed(padding, axes)
        if transposed:
            attrs |= {"transposed": True, "output_padding": _listed(call.plain(5, "output_padding", 0), axes)}
            attrs |= {"groups": call.plain(6, "groups", 1), "dilation": _listed(call.plain(7, "dilation", 1), axes)}
        else:
            attrs |= {"dilation": _listed(call.plain(5, "dilation", 1), axes), "groups": call.plain(6, "groups", 1)}
        return Lifted("conv", [x], attrs, operands)

    return rule


def _elementwise(kind: str, function: str) -> Rule:
    def rule(call: Call) -> Lifted:
        if {"alpha", "rounding_mode"} & call.node.kwargs.keys():
            raise Opaque("it has alpha or rounding_mode")
        sides = [call.arg(0, "input"), call.arg(1, "other")]
        attrs: dict[str, Json] = {} if function == kind else {"function": function}
        tensors = [side for side in sides if isinstance(side, fx.Node)]
        if not all(isinstance(kind_of(side), TensorType) for side in tensors):
            raise Opaque("one side is a size that is free")
        if len(tensors) == 2:
            return _pair(kind, attrs, tensors[0], tensors[1])
        value = sides[1] if isinstance(sides[0], fx.Node) else sides[0]
        if not isinstance(value, Number) or isinstance(value, bool):
            raise Opaque(f"one side is {type(value).__name__}")
        if value is sides[0]:
            attrs["reverse"] = True
        return Lifted(kind, tensors, {**attrs, "value": value})

    return rule


def _pair(kind: str, attrs: dict[str, Json], a: fx.Node, b: fx.Node) -> Lifted:
    """Return a kind on two tensors, of which one may be a parameter."""
    held = [node.op == "get_attr" for node in (a, b)]
    if held == [False, True]:
        return Lifted(kind, [a], attrs, {"other": b})
    if held == [True, False]:
        return Lifted(kind, [b], {**attrs, "reverse": True}, {"other": a})
    return Lifted(kind, [a, b], attrs)


def _matmul(call: Call) -> Lifted:
    return _pair("matmul", {}, call.tensor(0, "input"), call.tensor(1, "other" if call.name != "bmm" else "mat2"))


def _attention(call: Call) -> Lifted:
    query, key, value = (call.tensor(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.arg(3, "attn_mask")
    if call.plain(4, "dropout_p", 0.0):
        raise Opaque("it drops at random")
    attrs = {"causal": call.plain(5, "is_causal", False), "scale": call.plain(6, "scale")}
    return Lifted("attention", [query, key, value, *([] if mask is None else [mask])], {**_heads(query, key), **attrs})


def _scaled_query(call: Call) -> Lifted:
    query, key, value, mask = call.node.args[:4]
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node) and isinstance(value, fx.Node)
    attrs = {**_heads(query, key), "causal": False, "scale": None, "form": "scaled_query"}
    return Lifted("attention", [query, key, value, *([mask] if isinstance(mask, fx.Node) else [])], attrs)


def _heads(query: fx.Node, key: fx.Node) -> dict[str, Json]:
    shape, other = kind_of(query).shape, kind_of(key).shape
    if len(shape) < 3:
        raise Opaque("it has no heads")
    return {"heads": shape[-3], "kv_heads": other[-3], "head_size": shape[-1]}


# -- functions of one tensor ------------------------------------------------------------------------------------------


def _function(function: str, **arguments: tuple[int, str, Any]) -> Rule:
    """Return the rule of an activation; ``arguments``: attribute -> (place, name, default)."""

    def rule(call: Call) -> Lifted:
        x = call.tensor(0, "input")
        return Lifted("activation", [x], {"function": function} | {k: call.plain(*a) for k, a in arguments.items()})

    return rule


def _gelu(call: Call) -> Lifted:
    tanh = call.plain(1, "approximate", "none") == "tanh"
    return Lifted("activation", [call.tensor(0, "input")], {"function": "gelu_tanh" if tanh else "gelu"})


def _prelu(call: Call) -> Lifted:
    return Lifted("activation", [call.tensor(0, "input")], {"function": "prelu"}, call.parameters(weight=(1, "weight")))


def _power(call: Call) -> Lifted:
    exponent = call.plain(1, "exponent")
    if not isinstance(exponent, Number):
        raise Opaque("the exponent is no number")
    return Lifted("activation", [call.tensor(0, "input")], {"function": "power", "exponent": exponent})


def _clamp(call: Call) -> Lifted:
    low, high = call.plain(1, "min"), call.plain(2, "max")
    return Lifted("activation", [call.tensor(0, "input")], {"function": "clamp", "low": low, "high": high})


def _softmax(log: bool) -> Rule:
    def rule(call: Call) -> Lifted:
        x = call.tensor(0, "input")
        dtype = call.plain(9, "dtype")
        if len(call.node.args) > 2:
            raise Opaque("its dtype is given by place")
        attrs: dict[str, Json] = {"axis": call.axis(1, "dim", x)}
        attrs |= {"log": True} if log else {}
        return Lifted("softmax", [x], attrs if dtype is None else {**attrs, "dtype": _dtype(dtype)})

    return rule


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _embedding(call: Call) -> Lifted:
    if call.plain(3, "max_norm") is not None:
        raise Opaque("it renormalises its weight")
    padding = call.plain(2, "padding_idx")
    attrs = {} if padding is None or padding < 0 else {"padding_idx": padding}
    return Lifted("embedding", [call.tensor(0, "input")], attrs, call.parameters(weight=(1, "weight")))


def _norm(function: str, attr: str, eps: int) -> Rule:
    """Return the rule of a norm; ``attr`` is its second argument, ``eps`` the place of epsilon."""

    def rule(call: Call) -> Lifted:
        given = call.plain(1, "num_groups" if attr == "groups" else "normalized_shape")
        attrs = {"function": function, attr: given if attr == "groups" else list(given)}
        default = None if function == "rms" else 1e-5
        places = {"weight": (2, "weight")} | ({} if function == "rms" else {"bias": (3, "bias")})
        return Lifted(
            "norm",
            [call.tensor(0, "input")],
            {**attrs, "eps": call.plain(eps, "eps", default)},
            call.parameters(**places),
        )

    return rule


def _batch_norm(call: Call) -> Lifted:
    if call.plain(5, "training", False):
        raise Opaque("it normalises by the batch")
    roles = {"mean": (1, "running_mean"), "variance": (2, "running_var"), "weight": (3, "weight"), "bias": (4, "bias")}
    attrs = {"function": "batch", "eps": call.plain(7, "eps", 1e-5)}
    return Lifted("norm", [call.tensor(0, "input")], attrs, call.parameters(**roles))


# -- pooling ----------------------------------------------------------------------------------------------------------


def _reduce(function: str) -> Rule:
    def rule(call: Call) -> Lifted:
        x, given = call.tensor(0, "input"), call.plain(1, "dim")
        if given is None or "dtype" in call.node.kwargs:
            raise Opaque("it reduces all axes, or in another dtype")
        rank = len(kind_of(x).shape)
        axes = [axis % rank for axis in _listed(given, 1)]
        return Lifted("pool", [x], {"function": function, "axes": axes, "keepdim": call.plain(2, "keepdim", False)})

    return rule


def _window(function: str, axes: int) -> Rule:
    def rule(call: Call) -> Lifted:
        size = _listed(call.plain(1, "kernel_size"), axes)
        stride = call.plain(2, "stride")
        attrs: dict[str, Json] = {
            "function": function,
            "size": size,
            "stride": _listed(stride, axes) if stride else size,
        }
        attrs["padding"] = _listed(call.plain(3, "padding", 0), axes)
        if function == "max":
            if call.plain(6, "return_indices", False):
                raise Opaque("it gives indices")
            attrs |= {
                "dilation": _listed(call.plain(4, "dilation", 1), axes),
                "ceil": call.plain(5, "ceil_mode", False),
            }
        else:
            if call.plain(6, "divisor_override") is not None:
                raise Opaque("it has a divisor of its own")
            attrs |= {
                "ceil": call.plain(4, "ceil_mode", False),
                "count_padding": call.plain(5, "count_include_pad", True),
            }
        return Lifted("pool", [call.tensor(0, "input")], attrs)

    return rule


def _adaptive(function: str, axes: int) -> Rule:
    def rule(call: Call) -> Lifted:
        size = call.plain(1, "output_size")
        size = list(size) if isinstance(size, tuple | list) else [size] * axes
        return Lifted("pool", [call.tensor(0, "input")], {"function": function, "size": size})

    return rule


# -- layout -----------------------------------------------------------------------------------------------------------


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
    source, target = ([a % rank for a in _listed(call.plain(i, n), 1)] for i, n in ((1, "source"), (2, "destination")))
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
        raise Opaque("it picks elements by a tensor, or by a size that is free")
    cuts = [(axis, item) for axis, item in enumerate(items) if item != slice(None)]
    if len(cuts) == 1 and None not in items and Ellipsis not in items:
        axis, item = cuts[0]
        if isinstance(item, int):
            return _layout([source], "select", axis=axis, index=item)
        assert isinstance(item, slice)
        inputs, (start, end) = sized(source, [item.start, item.stop])
        return _layout(inputs, "slice", axis=axis, start=start, end=end, step=item.step)
    if any(_has_node((i.start, i.stop, i.step)) for i in items if isinstance(i, slice)):
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
            if value.target != "size" or len(value.args) != 2 or _has_node(value.args[1]):
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
    if _has_node(repeats):
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
    return _layout([x], "roll", shifts=_listed(call.plain(1, "shifts"), 1), axes=_listed(axes, 1))


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


SIMPLE = (
    *("relu", "relu6", "selu", "silu", "mish", "sigmoid", "logsigmoid", "tanh", "softsign", "hardsigmoid", "hardswish"),
    *("exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "abs", "neg", "sin", "cos", "erf"),
)  # functions that have the same name here and no arguments

FUNCTIONS: dict[str, Rule] = {
    **{name: _function(name) for name in SIMPLE},
    "absolute": _function("abs"),
    "negative": _function("neg"),
    "leaky_relu": _function("leaky_relu", slope=(1, "negative_slope", 0.01)),
    "elu": _function("elu", alpha=(1, "alpha", 1.0)),
    "celu": _function("celu", alpha=(1, "alpha", 1.0)),
    "softplus": _function("softplus", beta=(1, "beta", 1.0), threshold=(2, "threshold", 20.0)),
    "hardtanh": _function("clamp", low=(1, "min_val", -1.0), high=(2, "max_val", 1.0)),
    "clamp": _clamp,
    "clip": _clamp,
    "gelu": _gelu,
    "prelu": _prelu,
    "pow": _power,
    "add": _elementwise("add", "add"),
    "sub": _elementwise("add", "sub"),
    "subtract": _elementwise("add", "sub"),
    "mul": _elementwise("mul", "mul"),
    "multiply": _elementwise("mul", "mul"),
    "div": _elementwise("mul", "div"),
    "divide": _elementwise("mul", "div"),
    "true_divide": _elementwise("mul", "div"),
    "truediv": _elementwise("mul", "div"),
    "matmul": _matmul,
    "bmm": _matmul,
    "linear": _linear,
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "conv3d": _conv(3),
    "conv_transpose1d": _conv(1, True),
    "conv_transpose2d": _conv(2, True),
    "conv_transpose3d": _conv(3, True),
    "scaled_dot_product_attention": _attention,
    "scaled_query": _scaled_query,
    "softmax": _softmax(False),
    "log_softmax": _softmax(True),
    "embedding": _embedding,
    "layer_norm": _norm("layer", "shape", 4),
    "rms_norm": _norm("rms", "shape", 3),
    "group_norm": _norm("group", "groups", 4),
    "batch_norm": _batch_norm,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("amax"),
    "amin": _reduce("amin"),
    **{f"max_pool{n}d": _window("max", n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _window("average", n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _adaptive("adaptive_max", n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive("adaptive_average", n) for n in (1, 2, 3)},
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
}  # by the name of a function of torch or torch.nn.functional, a method of tensors, or an operator
