"""How each ONNX operator becomes a typed node; one function an operator, or a family of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from mase.frontend.onnx_builder import Builder, Constant, Step, Value, dtype_of, plain
from mase.frontend.onnx_formats import QUANTISERS
from mase.frontend.onnx_layout import LAYOUTS, Import
from mase.graph import META, Record
from mase.ops.pool import POOLS

NODES: dict[str, Import] = {**LAYOUTS, **QUANTISERS}  # by operator; filled below


def imports(*types: str) -> Callable[[Import], Import]:
    """Return a decorator that enters a function for the operators named."""

    def enter(function: Import) -> Import:
        NODES.update(dict.fromkeys(types, function))
        return function

    return enter


# -- products and sums ----------------------------------------------------------------------------------------------


@imports("Gemm")
def _gemm(b: Builder, step: Step) -> Value:
    """Read alpha A B + beta C."""
    alpha, beta = step.attrs.get("alpha", 1.0), step.attrs.get("beta", 1.0)
    matrix = b.constant(step, 1)
    if matrix.tensor.ndim != 2 or len(b.shape(b.value(step, 0))) != 2:
        shapes = f"{b.shape(b.value(step, 0))} and {tuple(matrix.tensor.shape)}"
        raise step.refuse(f"multiplies {shapes}; allowed are two axes each")
    weight = _scaled(matrix, alpha)
    weight = weight if step.attrs.get("transB", 0) else weight.transposed()
    x, outputs = b.node(step, 0), weight.tensor.shape[0]
    if step.attrs.get("transA", 0):
        raise step.refuse("transA is 1; allowed is 0")
    operands = {"weight": weight}
    if b.given(step, 2):
        bias = b.constant(step, 2)
        if (1, 1, *bias.tensor.shape)[-2] != 1 or bias.tensor.ndim > 2 or bias.tensor.numel() not in (1, outputs):
            raise step.refuse(f"C has shape {tuple(bias.tensor.shape)}; allowed is one number an output: ({outputs},)")
        values = _scaled(plain(bias), beta)
        flat = values.tensor.reshape(-1).expand(outputs)
        operands["bias"] = values if flat.shape == values.tensor.shape else replace(values, tensor=flat)
    return _linear(b, step, x, operands)


def _linear(b: Builder, step: Step, x: fx.Node, operands: Mapping[str, Constant]) -> fx.Node:
    stored = operands["weight"].tensor.is_contiguous()  # as [outputs, inputs]
    return b.emit(step, "linear", [x], {} if stored else {"transposed": True}, operands)


def _scaled(constant: Constant, factor: float) -> Constant:
    return constant if factor == 1.0 else Constant(constant.real() * factor)


@imports("MatMul")
def _matmul(b: Builder, step: Step) -> Value:
    first, second = b.value(step, 0), b.value(step, 1)
    if isinstance(first, Constant):
        return b.emit(step, "matmul", [b.node(step, 1)], {"reverse": True}, {"other": first})
    if isinstance(second, Constant):
        if second.tensor.ndim == 2:
            return _linear(b, step, first, {"weight": second.transposed()})
        return b.emit(step, "matmul", [first], {}, {"other": second})
    return b.emit(step, "matmul", [first, second])


SECOND: Mapping[str, tuple[str, str]] = {
    "Add": ("add", "add"),
    "Sub": ("add", "sub"),
    "Mul": ("mul", "mul"),
    "Div": ("mul", "div"),
}  # operator -> kind, function


@imports(*SECOND)
def _elementwise(b: Builder, step: Step) -> Value:
    kind, function = SECOND[step.type]
    first, second = b.value(step, 0, varied=True), b.value(step, 1, varied=True)
    attrs: dict[str, Any] = {} if function in ("add", "mul") else {"function": function}
    if function == "div" and not b.sample(first).is_floating_point():
        raise step.refuse("divides whole numbers; allowed are floating-point numbers")
    ranks = [len(b.shape(value)) for value in (first, second)]
    longest = max(rank for rank, value in zip(ranks, (first, second), strict=True) if isinstance(value, fx.Node))
    if max(ranks) > longest:
        raise step.refuse(
            f"has a constant of {max(ranks)} axes beside a value of {longest}, whose batch would leave axis 0; "
            f"allowed are at most {longest}"
        )
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        return b.emit(step, kind, [first, second], attrs)
    if isinstance(first, fx.Node):
        node, constant, index = first, second, 0
    else:
        node, constant, index = b.node(step, 1), first, 1
        attrs |= {"reverse": True} if attrs else {}
    assert isinstance(constant, Constant)
    if (
        step.type == "Add"
        and constant.varied is None
        and b.uses.get(step.inputs[index]) == 1
        and _takes_bias(node, constant)
    ):
        b.add_bias(node, replace(constant, tensor=constant.tensor.reshape(-1)))
        return node
    rank = len(b.shape(node))
    other = _one_sample(b, step, 1 - index, node)
    if other.tensor.numel() == 1 and other.tensor.ndim <= rank:
        return b.emit(step, kind, [node], {**attrs, "value": other.tensor.reshape(-1)[0].item()})
    return b.emit(step, kind, [node], attrs, {"other": other})


def _takes_bias(node: fx.Node, constant: Constant) -> bool:
    """Tell whether a constant is the bias of a linear node that has none yet."""
    record: Record = node.meta[META]
    if record.kind != "linear" or "bias" in record.operands or record.output.format is not None:
        return False
    outputs = record.operands["weight"].shape[0]
    fits = constant.tensor.ndim <= len(record.output.shape) and constant.tensor.shape[-1:] == (outputs,)
    return fits and constant.tensor.numel() == outputs and constant.varied is None


def _one_sample(b: Builder, step: Step, index: int, like: fx.Node) -> Constant:
    """Return a constant that stands beside a node, without the batch where it is the same for every sample."""
    value = b.value(step, index, varied=True)
    assert isinstance(value, Constant)
    values = plain(value)
    if values.tensor.ndim == len(b.shape(like)) and b.free(like)[:1] == [True]:
        row = b.one_row(values)
        if row is not None:
            return row
    return plain(b.constant(step, index))  # refuses what follows from the batch


@imports("Sum")
def _sum(b: Builder, step: Step) -> Value:
    total = b.node(step, 0)
    for i in range(1, len(step.inputs)):
        total = b.emit(step, "add", [total, b.node(step, i)])
    return total


OPAQUE: Mapping[str, Callable[..., Tensor]] = {
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Equal": torch.eq,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Round": torch.round,
    "Sign": torch.sign,
    "Where": torch.where,
}  # what runs and has no kind of its own


@imports(*OPAQUE)
def _opaque(b: Builder, step: Step) -> Value:
    operands = [b.value(step, i, varied=True) for i in range(len(step.inputs))]
    if step.type in ("Max", "Min") and len(operands) != 2:
        raise step.refuse(f"has {len(operands)} inputs; allowed are 2")
    like = max((v for v in operands if isinstance(v, fx.Node)), key=lambda v: len(b.shape(v)))
    nodes = []
    for index, value in enumerate(operands):
        nodes.append(value if isinstance(value, fx.Node) else b.holder(step, _one_sample(b, step, index, like)))
    return b.call(step, OPAQUE[step.type], nodes, f"{step.type} has no typed kind")


# -- convolution and pooling ----------------------------------------------------------------------------------------


def _window(
    b: Builder, step: Step, x: fx.Node, kernel: Sequence[int], fill: float, pools: bool = False
) -> tuple[fx.Node, dict[str, Any]]:
    """Return the input, padded where the node cannot, and stride, padding and dilation.

    Args:
        fill: what padding holds. pools: whether the node is a pool, which pads both sides alike, by half a window.
    """
    axes = len(kernel)
    stride = list(step.attrs.get("strides", [1] * axes))
    dilation = list(step.attrs.get("dilations", [1] * axes))
    pads = list(step.attrs.get("pads", [0] * 2 * axes))
    auto = step.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(-axes, 0):
            b.keep_batch(step, x, axis, "pads")
        pads = _same(b.shape(x)[-axes:], kernel, stride, dilation, auto == "SAME_UPPER")
    _check_window(b, step, x, {"strides": stride, "dilations": dilation, "kernel_shape": kernel, "pads": pads})
    wide = pools and any(2 * pad > (size - 1) * d + 1 for pad, size, d in zip(pads, kernel, dilation, strict=False))
    if wide or pads[:axes] != pads[axes:]:
        sides = [pads[axis + end] for axis in reversed(range(axes)) for end in (0, axes)]
        x = b.emit(step, "layout", [x], {"function": "pad", "padding": sides, "value": fill})
        pads = [0] * 2 * axes
    return x, {"stride": stride, "padding": pads[:axes], "dilation": dilation}


def _check_window(b: Builder, step: Step, x: fx.Node, found: Mapping[str, Sequence[int]]) -> None:
    """Refuse numbers of a window that are not one for each axis, two of pads, or that are too small."""
    axes = len(b.shape(x)) - 2
    counts = {name: 2 * axes if name == "pads" else axes for name in found}
    least = {name: 0 if name in ("pads", "output_padding") else 1 for name in found}
    wrong = [n for n, values in found.items() if len(values) != counts[n] or min(values, default=0) < least[n]]
    if axes < 1 or wrong:
        shown = ", ".join(f"{name} {list(values)}" for name, values in found.items())
        raise step.refuse(f"has {shown} on an input of {len(b.shape(x))} axes; these do not fit")


def _same(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], upper: bool
) -> list[int]:
    """Return the padding that keeps ceil(size / stride) windows: first sides, then last sides."""
    lows, highs = [], []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        lows.append(small if upper else large)
        highs.append(large if upper else small)
    return lows + highs


@imports("Conv")
def _conv(b: Builder, step: Step) -> Value:
    weight = b.constant(step, 1)
    operands = {"weight": weight}
    if b.given(step, 2):
        operands["bias"] = plain(b.constant(step, 2))
    _check_kernel(step, weight)
    x, attrs = _window(b, step, b.node(step, 0), weight.tensor.shape[2:], 0.0)
    return b.emit(step, "conv", [x], {**attrs, "groups": step.attrs.get("group", 1)}, operands)


def _check_kernel(step: Step, weight: Constant) -> None:
    """Refuse a kernel that is not that of the weight."""
    shape = tuple(weight.tensor.shape[2:])
    if tuple(step.attrs.get("kernel_shape", shape)) != shape:
        raise step.refuse(f"kernel_shape is {step.attrs['kernel_shape']}; the weight's is {list(shape)}")


@imports("ConvTranspose")
def _conv_transpose(b: Builder, step: Step) -> Value:
    weight = b.constant(step, 1)
    _check_kernel(step, weight)
    axes = weight.tensor.ndim - 2
    pads = list(step.attrs.get("pads", [0] * 2 * axes))
    if step.attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in step.attrs or pads[:axes] != pads[axes:]:
        raise step.refuse("has auto_pad, output_shape or uneven pads; allowed are even pads")
    attrs = {
        "stride": list(step.attrs.get("strides", [1] * axes)),
        "padding": pads[:axes],
        "dilation": list(step.attrs.get("dilations", [1] * axes)),
        "groups": step.attrs.get("group", 1),
        "transposed": True,
        "output_padding": list(step.attrs.get("output_padding", [0] * axes)),
    }
    x, kernel = b.node(step, 0), weight.tensor.shape[2:]
    found = {"strides": attrs["stride"], "dilations": attrs["dilation"], "output_padding": attrs["output_padding"]}
    _check_window(b, step, x, {**found, "kernel_shape": kernel, "pads": pads})
    operands = {"weight": weight} | ({"bias": plain(b.constant(step, 2))} if b.given(step, 2) else {})
    return b.emit(step, "conv", [x], attrs, operands)


@imports("MaxPool")
def _max_pool(b: Builder, step: Step) -> Value:
    if len([name for name in step.outputs if name]) > 1:
        raise step.refuse("gives indices; allowed is one output")
    kernel = list(step.attrs["kernel_shape"])
    given = b.node(step, 0)
    dtype = b.sample(given).dtype
    least = torch.finfo(dtype).min if dtype.is_floating_point else torch.iinfo(dtype).min
    x, attrs = _window(b, step, given, kernel, least, pools=True)
    attrs |= {"function": "max", "size": kernel, "ceil": bool(step.attrs.get("ceil_mode", 0))}
    return b.emit(step, "pool", [x], attrs)


@imports("AveragePool")
def _average_pool(b: Builder, step: Step) -> Value:
    kernel, counts = list(step.attrs["kernel_shape"]), bool(step.attrs.get("count_include_pad", 0))
    x = b.node(step, 0)
    padded, attrs = _window(b, step, x, kernel, 0.0, pools=True)
    if any(d != 1 for d in attrs.pop("dilation")):
        raise step.refuse(f"dilations {step.attrs['dilations']}; allowed is 1 on each axis")
    attrs |= {"function": "average", "size": kernel, "ceil": bool(step.attrs.get("ceil_mode", 0))}
    found = b.emit(step, "pool", [padded], {**attrs, "count_padding": counts})
    if padded is x or counts:
        return found
    pads: Record = padded.meta[META]
    ones = F.pad(torch.ones(1, 1, *b.shape(x)[2:], dtype=b.sample(x).dtype), pads.attrs["padding"])
    share = POOLS["average", len(kernel)](ones, kernel, attrs["stride"], 0, attrs["ceil"])
    if not bool((share > 0).all()):
        raise step.refuse("has windows of padding alone; allowed are pads smaller than the window")
    return b.emit(replace(step, name=f"{step.name}.counts"), "mul", [found], {}, {"other": Constant(1 / share)})


@imports("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(b: Builder, step: Step) -> Value:
    function = "adaptive_average" if step.type == "GlobalAveragePool" else "adaptive_max"
    x = b.node(step, 0)
    return b.emit(step, "pool", [x], {"function": function, "size": [1] * (len(b.shape(x)) - 2)})


REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}


@imports(*REDUCTIONS)
def _reduce(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    rank = len(b.shape(x))
    axes = b.numbers(step, "axes", 1)
    keeps, nothing = bool(step.attrs.get("keepdims", 1)), step.attrs.get("noop_with_empty_axes", 0)
    if not axes and nothing:
        return x
    attrs = {"axes": [step.axis(axis, rank) for axis in axes or range(rank)], "keepdim": keeps}
    y = b.emit(step, "pool", [x], {"function": REDUCTIONS[step.type], **attrs})
    dtype = b.sample(x).dtype
    if b.sample(y).dtype == dtype:
        return y
    return b.emit(step, "layout", [y], {"function": "cast", "dtype": dtype_of(b.sample(x))})


# -- normalisation, activation, attention ---------------------------------------------------------------------------


@imports("BatchNormalization")
def _batch_norm(b: Builder, step: Step) -> Value:
    if step.attrs.get("training_mode", 0) or len([name for name in step.outputs if name]) > 1:
        raise step.refuse("is in training mode; export the model in evaluation mode")
    roles = {"weight": 1, "bias": 2, "mean": 3, "variance": 4}
    operands = {role: plain(b.constant(step, index)) for role, index in roles.items()}
    attrs = {"function": "batch", "eps": step.attrs.get("epsilon", 1e-5)}
    return b.emit(step, "norm", [b.node(step, 0)], attrs, operands)


@imports("LayerNormalization", "RMSNormalization")
def _layer_norm(b: Builder, step: Step) -> Value:
    if len([name for name in step.outputs if name]) > 1:
        raise step.refuse("gives its statistics too; allowed is one output")
    x = b.node(step, 0)
    shape = list(b.shape(x)[step.axis(step.attrs.get("axis", -1), len(b.shape(x))) :])
    operands = {"weight": plain(b.constant(step, 1))}
    if b.given(step, 2):
        operands["bias"] = plain(b.constant(step, 2))
    if any(list(operand.tensor.shape) != shape for operand in operands.values()):
        raise step.refuse(f"weight has shape {tuple(operands['weight'].tensor.shape)}; allowed is {tuple(shape)}")
    function = "layer" if step.type == "LayerNormalization" else "rms"
    attrs = {"function": function, "eps": step.attrs.get("epsilon", 1e-5), "shape": shape}
    return b.emit(step, "norm", [x], attrs, operands)


@imports("GroupNormalization", "InstanceNormalization")
def _group_norm(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    channels = b.shape(x)[1]
    operands = {"weight": plain(b.constant(step, 1)), "bias": plain(b.constant(step, 2))}
    if operands["weight"].tensor.shape != (channels,):
        raise step.refuse("has one weight a group; allowed is one a channel (opset 21)")
    groups = step.attrs.get("num_groups", channels)
    attrs = {"function": "group", "eps": step.attrs.get("epsilon", 1e-5), "groups": groups}
    return b.emit(step, "norm", [x], attrs, operands)


ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
    "Relu": ("relu", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": ("slope", 0.01)}),
    "Elu": ("elu", {"alpha": ("alpha", 1.0)}),
    "Celu": ("celu", {"alpha": ("alpha", 1.0)}),
    "Sigmoid": ("sigmoid", {}),
    "Tanh": ("tanh", {}),
    "HardSwish": ("hardswish", {}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "Mish": ("mish", {}),
    "Exp": ("exp", {}),
    "Log": ("log", {}),
    "Sqrt": ("sqrt", {}),
    "Reciprocal": ("reciprocal", {}),
    "Abs": ("abs", {}),
    "Neg": ("neg", {}),
    "Sin": ("sin", {}),
    "Cos": ("cos", {}),
    "Erf": ("erf", {}),
}  # operator -> function, and its attributes with our name and ONNX's default


@imports(*ACTIVATIONS)
def _activation(b: Builder, step: Step) -> Value:
    function, fields = ACTIVATIONS[step.type]
    attrs = {ours: step.attrs.get(theirs, default) for theirs, (ours, default) in fields.items()}
    return b.emit(step, "activation", [b.node(step, 0)], {"function": function, **attrs})


@imports("Gelu")
def _gelu(b: Builder, step: Step) -> Value:
    function = {"none": "gelu", "tanh": "gelu_tanh"}.get(step.attrs.get("approximate", "none"), "")
    if not function:
        raise step.refuse(f"approximate is {step.attrs['approximate']}; allowed are none and tanh")
    return b.emit(step, "activation", [b.node(step, 0)], {"function": function})


@imports("HardSigmoid")
def _hard_sigmoid(b: Builder, step: Step) -> Value:
    alpha, beta = step.attrs.get("alpha", 0.2), step.attrs.get("beta", 0.5)
    if not math.isclose(alpha, 1 / 6, rel_tol=1e-6) or beta != 0.5:
        raise step.refuse(f"alpha {alpha}, beta {beta}; allowed are 1/6 and 0.5")
    return b.emit(step, "activation", [b.node(step, 0)], {"function": "hardsigmoid"})


@imports("Swish")
def _swish(b: Builder, step: Step) -> Value:
    if step.attrs.get("alpha", 1.0) != 1.0:
        raise step.refuse(f"alpha {step.attrs['alpha']}; allowed is 1")
    return b.emit(step, "activation", [b.node(step, 0)], {"function": "silu"})


@imports("PRelu")
def _prelu(b: Builder, step: Step) -> Value:
    x, slope = b.node(step, 0), plain(b.constant(step, 1))
    size, shape = slope.tensor.numel(), b.shape(x)
    aligned = [1] * (len(shape) - slope.tensor.ndim) + list(slope.tensor.shape)
    if size != 1 and (len(shape) < 2 or aligned[1] != size):
        raise step.refuse(f"slope has shape {tuple(slope.tensor.shape)}; allowed is one number, or one a channel")
    operands = {"weight": replace(slope, tensor=slope.tensor.reshape(-1))}
    return b.emit(step, "activation", [x], {"function": "prelu"}, operands)


@imports("Clip")
def _clip(b: Builder, step: Step) -> Value:
    low, high = b.number(step, "min", 1), b.number(step, "max", 2)
    if low is None and high is None:
        return b.node(step, 0)
    if low == 0 and (high is None or (high == 6 and b.sample(b.value(step, 0)).is_floating_point())):
        attrs: dict[str, Any] = {"function": "relu" if high is None else "relu6"}
    else:
        attrs = {"function": "clamp", "low": low, "high": high}
    return b.emit(step, "activation", [b.node(step, 0)], attrs)


@imports("Pow")
def _pow(b: Builder, step: Step) -> Value:
    exponent = b.number(step, "exponent", 1)
    assert exponent is not None
    whole = not b.sample(b.value(step, 0)).is_floating_point()
    if whole and exponent != int(exponent):
        raise step.refuse(f"raises whole numbers to the power {exponent}; allowed are whole exponents")
    exponent = int(exponent) if whole else float(exponent)
    attrs = {"function": "square"} if exponent == 2 else {"function": "power", "exponent": exponent}
    return b.emit(step, "activation", [b.node(step, 0)], attrs)


@imports("Softmax", "LogSoftmax")
def _softmax(b: Builder, step: Step) -> Value:
    x = b.node(step, 0)
    axis = step.attrs.get("axis", -1 if b.opset >= 13 else 1)
    if step.axis(axis, len(b.shape(x))) != len(b.shape(x)) - 1 and b.opset < 13:
        raise step.refuse(f"opset {b.opset} joins the axes from {axis} on; allowed is the last axis, or opset 13")
    return b.emit(step, "softmax", [x], {"axis": axis, **({"log": True} if step.type == "LogSoftmax" else {})})


@imports("Attention")
def _attention(b: Builder, step: Step) -> Value:
    queries = [b.node(step, i) for i in range(4 if b.given(step, 3) else 3)]
    shapes = [b.shape(query) for query in queries[:3]]
    extra = [name for i, name in enumerate(step.inputs) if i > 3 and name] + [name for name in step.outputs[1:] if name]
    if extra or step.attrs.get("softcap", 0.0) or any(len(shape) != 4 for shape in shapes):
        raise step.refuse(
            "has a cache, a soft cap or inputs of other than 4 axes; allowed are query, key, value and mask of 4 axes"
        )
    for name, shape in zip(("q_num_heads", "kv_num_heads"), shapes, strict=False):
        if step.attrs.get(name, shape[1]) != shape[1]:
            raise step.refuse(f"{name} is {step.attrs[name]}; the input has {shape[1]}")
    if step.attrs.get("softmax_precision", 1) != 1:
        raise step.refuse(f"softmax_precision is {step.attrs['softmax_precision']}; allowed is 1, float32")
    for query in queries[:3]:
        for axis in (1, 3):
            b.keep_batch(step, query, axis, "splits into heads")
    attrs: dict[str, Any] = {"heads": shapes[0][1], "kv_heads": shapes[1][1], "head_size": shapes[0][3]}
    attrs |= {"causal": bool(step.attrs.get("is_causal", 0)), "scale": step.attrs.get("scale")}
    dtype = b.sample(queries[0]).dtype
    if dtype == torch.bfloat16:
        raise step.refuse("is in bfloat16, whose sums ONNX leaves open; allowed are float32, float64 and float16")
    if dtype == torch.float16:
        attrs["form"] = "stepwise"
    return b.emit(step, "attention", queries, attrs)
