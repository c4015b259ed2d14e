"""linear: ``aten.linear``; products with a parameter (GPT-2, Falcon, Mamba); ``addmm`` with its flattening."""

from __future__ import annotations

from typing import Any

from torch import fx

from mase.frontend.lift.nodes import Node, is_op, same, symbolic
from mase.frontend.lift.work import Param, Typed, Work, rule


@rule("linear")
def linear(work: Work, node: Node) -> Typed | None:
    """Match x W^T + b."""
    x, weight, bias = (*node.args, None)[:3]
    return _linear(work, x, work.param(weight), bias)


@rule("view", "reshape", "_unsafe_view", pattern=True)
def transposed(work: Work, node: Node) -> Typed | None:
    """Match ``addmm`` between two reshapes that fold and unfold the leading axes: GPT-2's Conv1D."""
    product = node.args[0]
    if not is_op(product, "addmm", "mm") or len(product.users) > 1:
        return None
    flat = product.args[-2]
    if not is_op(flat, "view", "reshape", "_unsafe_view"):
        return None
    x = flat.args[0]
    before, after = symbolic(x), symbolic(node)
    leading = len(before) == len(after) and all(same(a, b) for a, b in zip(before[:-1], after[:-1], strict=True))
    if not leading or not same(symbolic(flat)[-1], before[-1]) or not same(symbolic(product)[-1], after[-1]):
        return None
    return _product(work, product, x)


@rule("addmm", "mm")
def folded(work: Work, node: Node) -> Typed | None:
    """Match x W + b on two axes."""
    return _product(work, node, node.args[-2])


@rule("matmul", pattern=True)
def matmul(work: Work, node: Node) -> Typed | None:
    """Match x W^T and W x, where W is a matrix among the parameters."""
    left, right = node.args
    weight = work.param(right)
    if weight is not None and weight.tensor.ndim == 2:
        return _linear(work, left, Param(weight.key, weight.tensor.t()), None)
    weight = work.param(left)
    if weight is None or weight.tensor.ndim != 2 or not isinstance(right, fx.Node):
        return None
    return Typed("linear", (right,), {"columns": True}, {"weight": weight}, path=weight.owner)


def _product(work: Work, node: Node, x: Any) -> Typed | None:
    """Read ``mm`` and ``addmm``, whose weight is stored as [inputs, outputs]."""
    weight = work.param(node.args[-1])
    if weight is None:
        return None
    found = _linear(work, x, Param(weight.key, weight.tensor.t()), node.args[0] if is_op(node, "addmm") else None)
    return found and Typed(found.kind, found.inputs, {"transposed": True}, found.operands)


def _linear(work: Work, x: Node, weight: Param | None, bias: Node) -> Typed | None:
    offset = work.param(bias)
    if weight is None or weight.tensor.ndim != 2 or not isinstance(x, fx.Node) or (bias is not None and offset is None):
        return None
    operands = {"weight": weight} | ({} if offset is None else {"bias": offset})
    if all(work.is_whole(param) or work.is_turned(param) for param in operands.values()):
        return Typed("linear", (x,), {}, operands)
    parts = {role: work.rows(param) for role, param in operands.items()}
    found = {role: part for role, part in parts.items() if part is not None}
    return Typed("linear", (x,), {}, found, path=found["weight"].key) if len(found) == len(parts) else None
