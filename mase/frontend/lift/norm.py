"""norm: the norms of PyTorch, and RMS norms as models write them, with (1 + weight) too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mase.frontend.lift.nodes import Node, arguments, is_op, symbolic, value
from mase.frontend.lift.work import Param, Typed, Work, rule

CASTS = ("to", "_to_copy", "type_as")
HALF = (torch.float16, torch.bfloat16)


@rule("layer_norm")
def layer(work: Work, node: Node) -> Typed | None:
    """Match layer norm."""
    given = arguments(node)
    attrs = {"function": "layer", "shape": [int(n) for n in given["normalized_shape"]], "eps": given["eps"]}
    return _norm(work, given, attrs, {"weight": "weight", "bias": "bias"})


@rule("group_norm")
def group(work: Work, node: Node) -> Typed | None:
    """Match group norm."""
    given = arguments(node)
    attrs = {"function": "group", "groups": given["num_groups"], "eps": given["eps"]}
    return _norm(work, given, attrs, {"weight": "weight", "bias": "bias"})


@rule("batch_norm")
def batch(work: Work, node: Node) -> Typed | None:
    """Match batch norm with stored statistics."""
    given = arguments(node)
    if given["training"] or given["running_mean"] is None:
        return None
    roles = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
    return _norm(work, given, {"function": "batch", "eps": given["eps"]}, roles)


@rule("rms_norm")
def rms(work: Work, node: Node) -> Typed | None:
    """Match PyTorch's own RMS norm."""
    given = arguments(node)
    eps = given["eps"] if given["eps"] is not None else torch.finfo(value(given["input"]).dtype).eps
    attrs = {"function": "rms", "shape": [int(n) for n in given["normalized_shape"]], "eps": eps, "form": "torch"}
    return _norm(work, given, attrs, {"weight": "weight"})


def _norm(work: Work, given: dict[str, Any], attrs: dict[str, Any], roles: dict[str, str]) -> Typed | None:
    operands = {role: work.param(given[name]) for role, name in roles.items() if given[name] is not None}
    found = {role: param for role, param in operands.items() if param is not None}
    return Typed("norm", (given["input"],), attrs, found) if len(found) == len(operands) else None


@dataclass(frozen=True, eq=False)
class _Scaled:
    """What a model's RMS norm is made of before the weight: input, epsilon, and whether it is cast back already."""

    x: Node
    eps: float
    narrow: bool


@rule("mul", "to", "_to_copy", "type_as", pattern=True)
def written_rms(work: Work, node: Node) -> Typed | None:
    """Match ``weight * cast(x * rsqrt(mean(x^2) + eps))`` and ``cast(x * rsqrt(...) * (1 + weight))``."""
    product = node.args[0] if is_op(node, *CASTS) else node
    if not is_op(product, "mul") or len(product.args) != 2:
        return None
    for scaled, weight in (product.args, product.args[::-1]):
        param, offset = _weight(work, weight)
        if param is None or not isinstance(scaled, fx.Node):
            continue
        found = _scaled(scaled)
        if found is None or not _rounds_alike(node, product, found, offset):
            continue
        attrs = {"function": "rms", "shape": list(param.tensor.shape), "eps": found.eps, "form": "llama"}
        return Typed("norm", (found.x,), attrs | ({"offset": offset} if offset else {}), {"weight": param})
    return None


def _rounds_alike(node: Node, product: Node, found: _Scaled, offset: float) -> bool:
    """Tell whether casts stand where the kind has them: before the weight, or after it where there is an offset."""
    if value(found.x).dtype not in HALF:
        return node is product
    return (node is not product and not found.narrow) if offset else (node is product and found.narrow)


def _weight(work: Work, node: Any) -> tuple[Param | None, float]:
    """Read a weight, or a weight in float32 plus a number."""
    if is_op(node, "add") and isinstance(node.args[1], int | float) and len(node.args) == 2:
        inner = node.args[0]
        return work.param(inner.args[0] if is_op(inner, *CASTS) else inner), float(node.args[1])
    param = work.param(node)
    return (param, 0.0) if param is not None and param.tensor.ndim == 1 else (None, 0.0)


def _scaled(node: Node) -> _Scaled | None:
    """Read ``x * rsqrt(mean(x^2) + eps)``, with a cast to float32 before it and maybe a cast back after it."""
    narrow = is_op(node, *CASTS)
    product = node.args[0] if narrow else node
    if not is_op(product, "mul"):
        return None
    for factor, root in (product.args, product.args[::-1]):
        if not is_op(root, "rsqrt") or not is_op(root.args[0], "add"):
            continue
        x = _narrow(factor)
        mean, eps = root.args[0].args[:2]
        if not isinstance(eps, float) or not is_op(mean, "mean") or not _squares(mean.args[0], x):
            continue
        given = arguments(mean)
        wide = value(mean).dtype not in HALF and value(product).dtype not in HALF
        if wide and given["dim"] in ([-1], [len(symbolic(x)) - 1]) and given["keepdim"]:
            return _Scaled(x, eps, narrow)
    return None


def _narrow(node: Node) -> Node:
    """Return what a cast from 16 bits to float32 takes; a product with float32 makes the same cast."""
    return node.args[0] if is_op(node, *CASTS) and value(node.args[0]).dtype in HALF else node


def _squares(node: Node, x: Node) -> bool:
    if is_op(node, "pow"):
        return _narrow(node.args[0]) is x and node.args[1] == 2
    factors = [_narrow(factor) for factor in node.args]
    return (is_op(node, "mul") and factors == [x, x]) or (is_op(node, "square") and factors == [x])
