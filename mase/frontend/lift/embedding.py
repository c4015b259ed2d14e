"""embedding: rows of a parameter by integers; its role is read off the integers."""

from __future__ import annotations

import torch
from torch import fx

from mase.frontend.lift.nodes import Node, ancestors, arguments, is_op
from mase.frontend.lift.work import Typed, Work, rule


@rule("embedding")
def embedding(work: Work, node: Node) -> Typed | None:
    """Match a look-up in a table; ids are tokens where they come from an input, else positions or types."""
    given = arguments(node)
    weight = work.param(given["weight"])
    if weight is None or not isinstance(given["indices"], fx.Node):
        return None
    attrs = {"role": _role(work, given["indices"])}
    if given["padding_idx"] >= 0:
        attrs["padding_idx"] = given["padding_idx"]
    return Typed("embedding", (given["indices"],), attrs, {"weight": weight})


def _role(work: Work, ids: Node) -> str:
    constant = work.constant(ids)
    if constant is not None and constant.numel() > 1 and bool((constant == constant.flatten()[0]).all()):
        return "type"
    sized = (above for above in ancestors(ids) if above.op == "placeholder")
    return "token" if any(not is_op(user, "sym_size") for above in sized for user in above.users) else "position"


@rule("index")
def rows(work: Work, node: Node) -> Typed | None:
    """Match the rows of a parameter that constants name, such as the biases of relative positions."""
    weight, ids = work.param(node.args[0]), node.args[1]
    if weight is None or weight.tensor.ndim != 2 or not isinstance(ids, list | tuple) or len(ids) != 1:
        return None
    index = work.constant(ids[0])
    if index is None or index.dtype not in (torch.int64, torch.int32) or bool((index < 0).any()):
        return None
    return Typed("embedding", (ids[0],), {"role": "position"}, {"weight": weight})
