"""Index of the greatest element along an axis."""

from __future__ import annotations

from mase.frontend.lift.nodes import Node, arguments
from mase.frontend.lift.work import Typed, Work, rule


@rule("argmax")
def argmax(work: Work, node: Node) -> Typed | None:
    """Match argmax along an axis of a sample."""
    given = arguments(node)
    x = node.all_input_nodes[0]
    if given.get("dim") is None or given["dim"] % x.meta["val"].ndim == 0:
        return None
    return Typed("argmax", (x,), {"axis": given["dim"] % x.meta["val"].ndim, "keepdim": given.get("keepdim", False)})
