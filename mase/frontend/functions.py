"""Which of PyTorch's functions, methods and operators becomes which kind: tables of rules by name."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from mase.frontend.calls import Call, Lifted, Opaque, Rule, kind_of, listed
from mase.frontend.layouts import LAYOUTS
from mase.graph import Json, TensorType
from mase.ops.base import OPS

ROOMS = ("torch", "_operator", "builtins", "mase.ops")  # whose functions are known by name alone
PARTS = ("getitem", "getattr")  # what takes one of several results
Number = bool | int | float


def lift_call(node: fx.Node) -> Lifted:
    """Return what a call is.

    Raises:
        Opaque: the call does not have a kind; the text says why.
    """
    name = _known(node)
    rule = FUNCTIONS.get(name) or _own(name)
    if name in PARTS and isinstance(source := node.args[0], fx.Node) and (one := _own(_known(source))):
        return one(Call(source, _known(source), node.args[1]))  # type: ignore[arg-type]  # a place or a name
    if rule is None:
        raise Opaque("no typed kind for it")
    if not isinstance(kind_of(node), TensorType):
        raise Opaque("it gives no tensor")
    if "out" in node.kwargs:
        raise Opaque("it writes into a tensor")
    return rule(Call(node, name))


def _known(node: fx.Node) -> str:
    """Return the name of a function of PyTorch or of Python that a node calls, "" of all others."""
    target = node.target
    room = getattr(target, "__module__", None) or "torch"
    if isinstance(target, str):
        return target
    return str(getattr(target, "__name__", "")) if room.startswith(ROOMS) else ""


def _own(name: str) -> Rule | None:
    """Return the rule that an operator brings for a function."""
    return next((cast("Rule", op.calls[name]) for _, op in OPS.items() if name in op.calls), None)


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _linear(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    return Lifted("linear", [x], {}, call.parameters(weight=(1, "weight"), bias=(2, "bias")))


def _conv(axes: int, transposed: bool = False) -> Rule:
    def rule(call: Call) -> Lifted:
        x, operands = call.tensor(0, "input"), call.parameters(weight=(1, "weight"), bias=(2, "bias"))
        padding = call.plain(4, "padding", 0)
        attrs: dict[str, Json] = {"stride": listed(call.plain(3, "stride", 1), axes)}
        attrs["padding"] = padding if isinstance(padding, str) else listed(padding, axes)
        if transposed:
            attrs |= {"transposed": True, "output_padding": listed(call.plain(5, "output_padding", 0), axes)}
            attrs |= {"groups": call.plain(6, "groups", 1), "dilation": listed(call.plain(7, "dilation", 1), axes)}
        else:
            attrs |= {"dilation": listed(call.plain(5, "dilation", 1), axes), "groups": call.plain(6, "groups", 1)}
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
        raise Opaque("its query has no axis of heads")
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
        raise Opaque("the exponent is not a number")
    return Lifted("activation", [call.tensor(0, "input")], {"function": "power", "exponent": exponent})


def _clamp(call: Call) -> Lifted:
    low, high = call.plain(1, "min"), call.plain(2, "max")
    return Lifted("activation", [call.tensor(0, "input")], {"function": "clamp", "low": low, "high": high})


def _softmax(log: bool) -> Rule:
    def rule(call: Call) -> Lifted:
        x = call.tensor(0, "input")
        dtype = call.plain(9, "dtype")
        if len(call.node.args) > 2:
            raise Opaque("its dtype is a positional argument")
        attrs: dict[str, Json] = {"axis": call.axis(1, "dim", x)}
        attrs |= {"log": True} if log else {}
        return Lifted("softmax", [x], attrs if dtype is None else {**attrs, "dtype": _dtype(dtype)})

    return rule


def _argmax(call: Call) -> Lifted:
    x = call.tensor(0, "input")
    if call.arg(1, "dim") is None:
        raise Opaque("it looks at the flattened tensor, the batch too")
    axis = call.axis(1, "dim", x)
    if axis == 0:
        raise Opaque("it looks along the batch")
    return Lifted("argmax", [x], {"axis": axis, "keepdim": call.plain(2, "keepdim", False)})


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
        axes = [axis % rank for axis in listed(given, 1)]
        return Lifted("pool", [x], {"function": function, "axes": axes, "keepdim": call.plain(2, "keepdim", False)})

    return rule


def _window(function: str, axes: int) -> Rule:
    def rule(call: Call) -> Lifted:
        size = listed(call.plain(1, "kernel_size"), axes)
        stride = call.plain(2, "stride")
        attrs: dict[str, Json] = {
            "function": function,
            "size": size,
            "stride": listed(stride, axes) if stride else size,
        }
        attrs["padding"] = listed(call.plain(3, "padding", 0), axes)
        if function == "max":
            if call.plain(6, "return_indices", False):
                raise Opaque("it gives indices")
            attrs |= {
                "dilation": listed(call.plain(4, "dilation", 1), axes),
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
    "argmax": _argmax,
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
    **LAYOUTS,
}  # by the name of a function of torch or torch.nn.functional, a method of tensors, or an operator
