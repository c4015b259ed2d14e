"""Turn writes in place into results: ``x.add_(y)`` becomes ``add(x, y)`` and later readers of x read that."""

from __future__ import annotations

import torch
from torch import fx

from mase.frontend.lift.nodes import Node, is_op

MAY_ALIAS = ("dropout", "contiguous", "reshape", "flatten", "to")  # their schemas promise nothing either way


def writes(node: Node) -> bool:
    """Tell whether a node writes into one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def without_writes(graph: fx.Graph) -> bool:
    """Replace every write in place whose target has no view that is read later; tell whether none is left."""
    return all(_replace(graph, node) for node in list(graph.nodes) if writes(node))


def _replace(graph: fx.Graph, node: Node) -> bool:
    target, base = node.target, node.args[0] if node.args else None
    assert isinstance(target, torch._ops.OpOverload)
    packet = getattr(torch.ops.aten, target._opname.removesuffix("_"), None)
    if target.namespace != "aten" or packet is None or not isinstance(base, fx.Node):
        return False
    order = {n: place for place, n in enumerate(graph.nodes)}
    shared = _shared(base)
    if any(n.op in ("placeholder", "get_attr") for n in shared):
        return False
    before = {n for n in shared - {base} if order[n] < order[node]}
    later = [n for n in before if any(order[user] > order[node] for user in n.users)]
    overload = getattr(packet, target._overloadname, None)
    if later or overload is None or overload._schema.is_mutable:
        return False
    base.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])
    node.target = overload
    return True


def _shared(base: Node) -> set[Node]:
    """Return the nodes whose results may lie in the memory of ``base``."""
    root = base
    while (above := _viewed(root)) is not None:
        root = above
    found, waiting = {root}, [root]
    while waiting:
        for user in waiting.pop().users:
            if user not in found and _viewed(user) in found:
                found.add(user)
                waiting.append(user)
    return found


def _viewed(node: Node) -> Node | None:
    """Return the node that a view, an element of a tuple of views, or a write in place gives on."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if is_op(node, *MAY_ALIAS) or (getattr(node.target, "__name__", "") == "getitem" and _gives_views(first)):
        return first
    return first if _gives_views(node) else None


def _gives_views(node: Node) -> bool:
    """Tell whether an operation gives views of its first argument, or that argument itself."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    shared = bool(schema.arguments) and schema.arguments[0].alias_info is not None
    return shared and any(result.alias_info is not None for result in schema.returns)
