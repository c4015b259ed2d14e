"""rotary: x cos + turned(x) sin, where the turn swaps halves of the last axis and negates one."""

from __future__ import annotations

from typing import Any

from torch import fx

from mase.frontend.lift.nodes import Node, arguments, is_op, number, symbolic
from mase.frontend.lift.work import Typed, Work, rule


@rule("add", pattern=True)
def rotary(work: Work, node: Node) -> Typed | None:
    """Match ``(x * cos) + (turn(x) * sin)`` on queries or keys."""
    straight, turned = node.args[:2]
    if not is_op(straight, "mul") or not is_op(turned, "mul") or node.kwargs:
        return None
    (x, cos), (swapped, sin) = straight.args, turned.args
    if not all(isinstance(n, fx.Node) for n in (x, cos, sin)) or not _is_half_turn(swapped, x):
        return None
    return Typed("rotary", (x, cos, sin), {"head_size": number(symbolic(x)[-1])}, ports=("x", "cos", "sin"))


def _is_half_turn(node: Any, x: Any) -> bool:
    """Tell whether a node is ``cat(-x[..., half:], x[..., :half])``."""
    if not is_op(node, "cat") or len(node.args[0]) != 2:
        return False
    size, axis = number(symbolic(x)[-1]), len(symbolic(x)) - 1
    minus, low = node.args[0]
    if not is_op(minus, "neg") or arguments(node)["dim"] not in (-1, axis):
        return False
    high = minus.args[0]
    if not all(is_op(part, "slice") and part.args[0] is x for part in (high, low)):
        return False
    upper, lower = arguments(high), arguments(low)
    if any(part["dim"] not in (-1, axis) or part["step"] != 1 for part in (upper, lower)):
        return False
    return (upper["start"], lower["start"] or 0, lower["end"]) == (size // 2, 0, size // 2) and (
        upper["end"] or size
    ) >= size
