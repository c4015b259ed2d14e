"""add, mul and matmul: of two tensors, of a tensor and a parameter, of a tensor and a number."""

from __future__ import annotations

from typing import Any

from torch import fx

from mase.frontend.lift.nodes import Node, arguments, op, value
from mase.frontend.lift.work import Typed, Work, rule

KINDS = {"add": "add", "sub": "add", "rsub": "add", "mul": "mul", "div": "mul"}


@rule(*KINDS)
def elementwise(work: Work, node: Node) -> Typed | None:
    """Match a sum, a difference, a product or a quotient."""
    given, name = arguments(node), op(node)
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return None
    attrs: dict[str, Any] = {"function": "sub" if name == "rsub" else name} if name in ("sub", "rsub", "div") else {}
    a, b = given["self"], given["other"]
    if name == "rsub":
        a, b = b, a
    return _two(work, KINDS[name], a, b, attrs)


@rule("matmul", "bmm")
def matmul(work: Work, node: Node) -> Typed | None:
    """Match a product of two matrices that are not parameters of a linear unit."""
    return _two(work, "matmul", node.args[0], node.args[1], {})


def _two(work: Work, kind: str, a: Any, b: Any, attrs: dict[str, Any]) -> Typed | None:
    """Put a parameter or a number into the record, two tensors into the inputs."""
    for x, other, reverse in ((a, b, {}), (b, a, {"reverse": True})):
        param = work.param(other)
        if not isinstance(x, fx.Node) or (param is not None and work.param(x) is not None):
            continue
        if isinstance(other, int | float):
            return Typed(kind, (x,), {**attrs, **reverse, "value": other})
        if param is not None and work.is_whole(param):
            held = {} if param.key in work.parameters else {"parameter": False}
            return Typed(kind, (x,), {**attrs, **reverse, **held}, {"other": param})
    tensors = isinstance(a, fx.Node) and isinstance(b, fx.Node) and all(hasattr(value(n), "shape") for n in (a, b))
    return Typed(kind, (a, b), attrs) if tensors else None
