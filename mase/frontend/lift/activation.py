"""activation: functions of one element, single calls and those that models spell out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from mase.frontend.lift.nodes import Node, arguments, is_op, op, value
from mase.frontend.lift.work import Typed, Work, rule

SAME = ("relu", "relu6", "selu", "silu", "mish", "sigmoid", "tanh", "hardsigmoid", "hardswish", "exp", "log", "sqrt")
PLAIN = {name: name for name in (*SAME, "rsqrt", "square", "reciprocal", "abs", "neg", "sin", "cos", "erf")} | {
    "log_sigmoid": "logsigmoid"
}  # name in ATen -> ours


@rule(*PLAIN)
def plain(work: Work, node: Node) -> Typed | None:
    """Match a function without parameters."""
    return _activation(node, PLAIN[op(node)])


@rule("gelu")
def gelu(work: Work, node: Node) -> Typed | None:
    """Match GELU, exact or with tanh."""
    return _activation(node, "gelu_tanh" if arguments(node)["approximate"] == "tanh" else "gelu")


@rule("leaky_relu")
def leaky_relu(work: Work, node: Node) -> Typed | None:
    """Match ReLU with a slope below 0."""
    return _activation(node, "leaky_relu", slope=arguments(node)["negative_slope"])


@rule("elu")
def elu(work: Work, node: Node) -> Typed | None:
    """Match ELU with its usual scales."""
    given = arguments(node)
    if (given["scale"], given["input_scale"]) != (1, 1):
        return None
    return _activation(node, "elu", alpha=given["alpha"])


@rule("softplus")
def softplus(work: Work, node: Node) -> Typed | None:
    """Match softplus."""
    given = arguments(node)
    return _activation(node, "softplus", beta=given["beta"], threshold=given["threshold"])


@rule("hardtanh", "clamp", "clamp_min", "clamp_max")
def clamp(work: Work, node: Node) -> Typed | None:
    """Match a cut to a range of numbers."""
    given = arguments(node)
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    if not all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
        return None
    if op(node) == "hardtanh" and (low, high) == (0, 6):
        return _activation(node, "relu6")
    return _activation(node, "clamp", low=low, high=high)


@rule("pow")
def power(work: Work, node: Node) -> Typed | None:
    """Match a power with a number."""
    exponent = node.args[1]
    return _activation(node, "power", exponent=exponent) if isinstance(exponent, int | float) else None


@rule("prelu")
def prelu(work: Work, node: Node) -> Typed | None:
    """Match ReLU with a learned slope."""
    weight = work.param(node.args[1])
    if weight is None:
        return None
    return Typed("activation", (node.args[0],), {"function": "prelu"}, {"weight": weight})


@rule("pow", "square", pattern=True)
def relu_squared(work: Work, node: Node) -> Typed | None:
    """Match ``relu(x)^2``."""
    inner = node.args[0]
    if not is_op(inner, "relu") or len(inner.users) > 1 or (is_op(node, "pow") and node.args[1] != 2):
        return None
    return Typed("activation", (inner.args[0],), {"function": "relu_squared"})


@rule("mul", pattern=True)
def gelu_quick(work: Work, node: Node) -> Typed | None:
    """Match ``x * sigmoid(1.702 * x)``."""
    x, gate = node.args
    if not is_op(gate, "sigmoid") or not is_op(gate.args[0], "mul") or gate.args[0].args[0] is not x:
        return None
    return Typed("activation", (x,), {"function": "gelu_quick"}) if gate.args[0].args[1] == 1.702 else None


@rule("mul", pattern=True)
def gelu_new(work: Work, node: Node) -> Typed | None:
    """Match ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``, as GPT-2 spells it."""
    half, one = node.args
    if not is_op(half, "mul") or half.args[1] != 0.5 or not is_op(one, "add") or not is_op(one.args[0], "tanh"):
        return None
    x, scaled = half.args[0], one.args[0].args[0]
    if not is_op(scaled, "mul") or not is_op(scaled.args[0], "add") or one.args[1] != 1 or scaled.args[1] != ROOT:
        return None
    first, cubic = scaled.args[0].args
    if first is not x or not is_op(cubic, "mul") or cubic.args[1] != 0.044715:
        return None
    cube = cubic.args[0]
    right = is_op(cube, "pow") and cube.args[0] is x and cube.args[1] == 3
    return Typed("activation", (x,), {"function": "gelu_new"}) if right else None


ROOT = 0.7978845608028654  # sqrt(2 / pi)


def _activation(node: Node, function: str, **parameters: Any) -> Typed | None:
    x = node.args[0]
    if not isinstance(x, fx.Node) or not isinstance(value(x), Tensor):
        return None
    return Typed("activation", (x,), {"function": function, **parameters})
