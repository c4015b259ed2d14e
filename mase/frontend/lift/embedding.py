"""embedding: rows of a parameter by integers; its role is read off the integers."""

from __future__ import annotations

from torch import fx

from mase.frontend.lift.nodes import ancestors, arguments, is_op
from mase.frontend.lift.work import Typed, Work, rule


@rule("embedding")
def embedding(work: Work, node: fx.Node) -> Typed | None:
    """Match a look-up in a table; ids are tokens where they come from an input, else positions or types."""
    given = arguments(node)
    weight = work.param(given["weight"])
    if weight is None or not isinstance(given["indices"], fx.Node):
        return None
    attrs = {"role": _role(work, given["indices"])}
    if given["padding_idx"] >= 0:
        attrs["padding_idx"] = given["padding_idx"]
    return Typed("embedding", (given["indices"],), attrs, {"weight": weight})


def _role(work: Work, ids: fx.Node) -> str:
    constant = work.constant(ids)
    if constant is not None and constant.numel() > 1 and bool((constant == constant.flatten()[0]).all()):
        return "type"
    sized = (above for above in ancestors(ids) if above.op == "placeholder")
    return "token" if any(not is_op(user, "sym_size") for above in sized for user in above.users) else "position"
