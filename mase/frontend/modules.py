"""Which of PyTorch's modules becomes which kind: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mase.graph import Json, TensorType


@dataclass(frozen=True)
class Lift:
    """Say what a module is in the normal form.

    Args:
        kind: of the node. attrs: its constants. operands: role -> name of the module's parameter or buffer.
    """

    kind: str
    attrs: Mapping[str, Json] = field(default_factory=dict)
    operands: Mapping[str, str] = field(default_factory=dict)


Rule = Callable[[Any, TensorType], Lift | None]  # the module, and what it gives; None leaves it opaque
WEIGHTS = {"weight": "weight", "bias": "bias"}
STATISTICS = {**WEIGHTS, "mean": "running_mean", "variance": "running_var"}


def lift_module(m: nn.Module, output: TensorType) -> Lift | None:
    """Return the kind of a module by its class, or by a base class whose ``forward`` it has; None where it has none."""
    for cls in type(m).__mro__:
        if cls in MODULES and type(m).forward is cls.forward:
            lift = MODULES[cls](m, output)
            if lift is None:
                return None
            held = {role: name for role, name in lift.operands.items() if getattr(m, name) is not None}
            return Lift(lift.kind, lift.attrs, held)
    return None


def _linear(m: nn.Linear, output: TensorType) -> Lift:
    return Lift("linear", {}, WEIGHTS)


def _conv(m: Any, output: TensorType) -> Lift:  # any of the six convolutions, which have no public base class
    attrs: dict[str, Any] = {"stride": list(m.stride), "padding": _listed(m.padding), "dilation": list(m.dilation)}
    attrs["groups"] = m.groups
    if m.padding_mode != "zeros":
        attrs["padding_mode"] = m.padding_mode
    if m.transposed:
        attrs |= {"transposed": True, "output_padding": list(m.output_padding)}
    return Lift("conv", attrs, WEIGHTS)


def _listed(padding: str | tuple[int, ...]) -> str | list[int]:
    return padding if isinstance(padding, str) else list(padding)


def _batch_norm(m: nn.BatchNorm1d, output: TensorType) -> Lift | None:
    return None if m.running_mean is None else Lift("norm", {"function": "batch", "eps": m.eps}, STATISTICS)


def _layer_norm(m: nn.LayerNorm, output: TensorType) -> Lift:
    return Lift("norm", {"function": "layer", "eps": m.eps, "shape": list(m.normalized_shape)}, WEIGHTS)


def _rms_norm(m: nn.RMSNorm, output: TensorType) -> Lift:
    attrs = {"function": "rms", "eps": m.eps, "shape": list(m.normalized_shape)}
    return Lift("norm", attrs, {"weight": "weight"})


def _group_norm(m: nn.GroupNorm, output: TensorType) -> Lift:
    return Lift("norm", {"function": "group", "eps": m.eps, "groups": m.num_groups}, WEIGHTS)


def _activation(function: str, **attrs: str) -> Callable[[Any, TensorType], Lift]:
    """Return the rule of an activation; ``attrs`` name the module's fields."""

    def rule(m: Any, output: TensorType) -> Lift:
        return Lift("activation", {"function": function, **{key: getattr(m, name) for key, name in attrs.items()}})

    return rule


def _gelu(m: nn.GELU, output: TensorType) -> Lift:
    return Lift("activation", {"function": "gelu_tanh" if m.approximate == "tanh" else "gelu"})


def _prelu(m: nn.PReLU, output: TensorType) -> Lift:
    return Lift("activation", {"function": "prelu"}, {"weight": "weight"})


def _softmax(m: nn.Softmax, output: TensorType) -> Lift | None:
    return None if m.dim is None else Lift("softmax", {"axis": m.dim})


def _log_softmax(m: nn.LogSoftmax, output: TensorType) -> Lift | None:
    return None if m.dim is None else Lift("softmax", {"axis": m.dim, "log": True})


def _embedding(m: nn.Embedding, output: TensorType) -> Lift | None:
    attrs = {} if m.padding_idx is None else {"padding_idx": m.padding_idx}
    return None if m.max_norm is not None else Lift("embedding", attrs, {"weight": "weight"})


def _sizes(value: int | tuple[int, ...], axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _max_pool(axes: int) -> Callable[[Any, TensorType], Lift | None]:
    def rule(m: nn.MaxPool2d, output: TensorType) -> Lift | None:
        if m.return_indices:
            return None
        numbers = {"size": m.kernel_size, "stride": m.stride, "padding": m.padding, "dilation": m.dilation}
        attrs = {key: _sizes(value, axes) for key, value in numbers.items()}
        return Lift("pool", {"function": "max", **attrs, "ceil": m.ceil_mode})

    return rule


def _average_pool(axes: int) -> Callable[[Any, TensorType], Lift | None]:
    def rule(m: nn.AvgPool2d, output: TensorType) -> Lift | None:
        if getattr(m, "divisor_override", None) is not None:
            return None
        numbers = {"size": m.kernel_size, "stride": m.stride, "padding": m.padding}
        attrs = {key: _sizes(value, axes) for key, value in numbers.items()}
        return Lift("pool", {"function": "average", **attrs, "ceil": m.ceil_mode, "count_padding": m.count_include_pad})

    return rule


def _adaptive(function: str, axes: int) -> Callable[[Any, TensorType], Lift | None]:
    def rule(m: Any, output: TensorType) -> Lift | None:
        if getattr(m, "return_indices", False):
            return None
        size = [m.output_size] * axes if not isinstance(m.output_size, tuple) else list(m.output_size)
        return Lift("pool", {"function": function, "size": size})

    return rule


def _flatten(m: nn.Flatten, output: TensorType) -> Lift:
    if m.start_dim >= 1 and len(output.shape) > 1:
        return Lift("layout", {"shape": list(output.shape[1:])})
    return Lift("layout", {"function": "flatten", "start": m.start_dim, "end": m.end_dim})


def _unflatten(m: Any, output: TensorType) -> Lift:  # nn.Unflatten, whose axis may have a name
    if isinstance(m.dim, int) and m.dim >= 1:
        return Lift("layout", {"shape": list(output.shape[1:])})
    return Lift("layout", {"function": "unflatten", "axis": m.dim, "shape": list(m.unflattened_size)})


def _pad(m: Any, output: TensorType) -> Lift:
    return Lift("layout", {"function": "pad", "padding": list(m.padding), "mode": "constant", "value": m.value})


def _zero_pad(m: Any, output: TensorType) -> Lift:
    return Lift("layout", {"function": "pad", "padding": list(m.padding), "mode": "constant", "value": 0.0})


def _factor(function: str, name: str) -> Callable[[Any, TensorType], Lift]:
    return lambda m, output: Lift("layout", {"function": function, "factor": getattr(m, name)})


def _upsample(m: nn.Upsample, output: TensorType) -> Lift | None:
    if m.mode != "nearest" or m.scale_factor is None or m.recompute_scale_factor:
        return None
    factors = m.scale_factor
    return Lift("layout", {"function": "nearest", "factors": list(factors) if isinstance(factors, tuple) else factors})


MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    nn.ConvTranspose1d: _conv,
    nn.ConvTranspose2d: _conv,
    nn.ConvTranspose3d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _activation("relu6"),
    nn.LeakyReLU: _activation("leaky_relu", slope="negative_slope"),
    nn.PReLU: _prelu,
    nn.ELU: _activation("elu", alpha="alpha"),
    nn.CELU: _activation("celu", alpha="alpha"),
    nn.SELU: _activation("selu"),
    nn.GELU: _gelu,
    nn.SiLU: _activation("silu"),
    nn.Mish: _activation("mish"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.LogSigmoid: _activation("logsigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.Softplus: _activation("softplus", beta="beta", threshold="threshold"),
    nn.Softsign: _activation("softsign"),
    nn.Hardsigmoid: _activation("hardsigmoid"),
    nn.Hardswish: _activation("hardswish"),
    nn.Hardtanh: _activation("clamp", low="min_val", high="max_val"),
    nn.Softmax: _softmax,
    nn.LogSoftmax: _log_softmax,
    nn.Embedding: _embedding,
    nn.MaxPool1d: _max_pool(1),
    nn.MaxPool2d: _max_pool(2),
    nn.MaxPool3d: _max_pool(3),
    nn.AvgPool1d: _average_pool(1),
    nn.AvgPool2d: _average_pool(2),
    nn.AvgPool3d: _average_pool(3),
    nn.AdaptiveMaxPool1d: _adaptive("adaptive_max", 1),
    nn.AdaptiveMaxPool2d: _adaptive("adaptive_max", 2),
    nn.AdaptiveMaxPool3d: _adaptive("adaptive_max", 3),
    nn.AdaptiveAvgPool1d: _adaptive("adaptive_average", 1),
    nn.AdaptiveAvgPool2d: _adaptive("adaptive_average", 2),
    nn.AdaptiveAvgPool3d: _adaptive("adaptive_average", 3),
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.ConstantPad1d: _pad,
    nn.ConstantPad2d: _pad,
    nn.ZeroPad1d: _zero_pad,
    nn.ZeroPad2d: _zero_pad,
    nn.PixelShuffle: _factor("pixel_shuffle", "upscale_factor"),
    nn.PixelUnshuffle: _factor("pixel_unshuffle", "downscale_factor"),
    nn.Upsample: _upsample,
}
