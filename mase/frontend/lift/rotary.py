"""rotary: x cos + turned(x) sin, where the turn swaps halves of the last axis, or neighbours, and negates one."""

from __future__ import annotations

import sys
from typing import Any

from torch import fx

from mase.frontend.lift.nodes import Node, arguments, is_op, label, number, same_shape, symbolic, value
from mase.frontend.lift.work import Typed, Work, rule


@rule("add", pattern=True)
def rotary(work: Work, node: Node) -> Typed | None:
    """Match ``(x * cos) + (turn(x) * sin)`` on queries or keys."""
    straight, turned = node.args[:2]
    if not is_op(straight, "mul") or not is_op(turned, "mul") or node.kwargs:
        return None
    (x, cos), (swapped, sin) = straight.args, turned.args
    if not all(isinstance(n, fx.Node) for n in (x, cos, sin)):
        return None
    form = "half" if _is_half_turn(swapped, x) else "interleaved" if _is_pair_turn(swapped, x) else ""
    attrs = {"head_size": number(symbolic(x)[-1]), "form": form}
    return Typed("rotary", (x, cos, sin), attrs, ports=("x", "cos", "sin")) if form else None


def _is_half_turn(node: Any, x: Any) -> bool:
    """Tell whether a node is ``cat(-x[..., half:], x[..., :half])``."""
    if not is_op(node, "cat") or len(node.args[0]) != 2:
        return False
    size, axis = number(symbolic(x)[-1]), len(symbolic(x)) - 1
    minus, low = node.args[0]
    if not is_op(minus, "neg") or arguments(node)["dim"] not in (-1, axis):
        return False
    return _range(minus.args[0], x) == (size // 2, size) and _range(low, x) == (0, size // 2)


def _range(node: Node, x: Node) -> tuple[int, int] | None:
    """Return first and last position, plus one, where a node is a range of the last axis of ``x``; else None."""
    size, axis = number(symbolic(x)[-1]), len(symbolic(x)) - 1
    if is_op(node, "slice"):
        given = arguments(node)
        found = (given["start"] or 0, min(given["end"] or size, size))
        return found if node.args[0] is x and given["dim"] in (-1, axis) and given["step"] == 1 else None
    if label(node) != "getitem" or not is_op(node.args[0], "chunk", "split") or node.args[0].args[0] is not x:
        return None
    if arguments(node.args[0])["dim"] not in (-1, axis):
        return None
    sizes = [number(part.shape[-1]) for part in value(node.args[0])]
    return sum(sizes[: node.args[1]]), sum(sizes[: node.args[1] + 1])


def _is_pair_turn(node: Node, x: Node) -> bool:
    """Tell whether a node is ``stack((-x[..., 1::2], x[..., ::2]), -1)`` with its last two axes made one."""
    if not is_op(node, "flatten", "view", "reshape") or not same_shape(node, x) or not is_op(node.args[0], "stack"):
        return False
    stack, axis = node.args[0], len(symbolic(x)) - 1
    if len(stack.args[0]) != 2 or arguments(stack)["dim"] not in (-1, axis + 1):
        return False
    minus, even = stack.args[0]
    if not is_op(minus, "neg"):
        return False
    odd = minus.args[0]
    if not all(is_op(part, "slice") and part.args[0] is x for part in (odd, even)):
        return False
    ends = [arguments(part) for part in (odd, even)]
    if any(part["dim"] not in (-1, axis) or (part["end"] or sys.maxsize) < number(symbolic(x)[-1]) for part in ends):
        return False
    return [(part["start"] or 0, part["step"]) for part in ends] == [(1, 2), (0, 2)]
