"""The greatest elements along an axis, and their indices."""

from __future__ import annotations

from mase.frontend.lift.nodes import Node, arguments, is_op
from mase.frontend.lift.work import Typed, Work, rule


@rule("getitem", pattern=True)
def topk(work: Work, node: Node) -> Typed | None:
    """Match one result of topk along an axis of a sample: the greatest first."""
    source, part = node.args
    if not is_op(source, "topk") or part not in (0, 1):
        return None
    given, x = arguments(source), source.args[0]
    axis = given["dim"] % x.meta["val"].ndim
    if axis == 0 or not isinstance(given["k"], int) or not given["largest"] or not given["sorted"]:
        return None
    return Typed("topk", (x,), {"k": given["k"], "axis": axis, "result": ("values", "indices")[part]})
