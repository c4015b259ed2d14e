"""softmax and its logarithm."""

from __future__ import annotations

from typing import Any

from mase.frontend.lift.nodes import Node, arguments, dtype_name, op
from mase.frontend.lift.work import Typed, Work, rule


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(work: Work, node: Node) -> Typed | None:
    """Match softmax along an axis."""
    given = arguments(node)
    if given.get("half_to_float"):
        return None
    attrs: dict[str, Any] = {"axis": given["dim"]}
    if given.get("dtype") is not None:
        attrs["dtype"] = dtype_name(given["dtype"])
    if "log" in op(node):
        attrs["log"] = True
    return Typed("softmax", (node.all_input_nodes[0],), attrs)
