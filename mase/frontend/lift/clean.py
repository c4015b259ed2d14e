"""Drop what changes nothing: assertions, casts to the same type, dropout, aliases; inline parts without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from mase.errors import GraphError
from mase.frontend.lift.nodes import (
    Node,
    arguments,
    is_op,
    is_unknown,
    label,
    op,
    same_shape,
    symbolic,
    value,
    where,
)

ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range", "_functional_assert")
SAME = ("alias", "detach", "lift_fresh_copy", "lift_fresh", "detach_", "dropout", "feature_dropout", "alpha_dropout")
CASTS = ("to", "_to_copy", "type_as")
RESHAPES = ("view", "reshape", "_unsafe_view", "expand", "expand_as", "flatten", "slice", "repeat")


def clean(graph: fx.Graph) -> None:
    """Remove nodes that only check or repeat their input.

    A cast to the same type would be read by the residual path of a norm, which then has two results.

    Raises:
        GraphError: the model runs a part under autocast, branches by a higher-order operation, or makes a tensor whose
            shape depends on values.
    """
    for node in graph.nodes:
        for source in node.all_input_nodes:
            source.users.setdefault(node)  # torch.export may leave this table incomplete
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if any(word in label(node) for word in ASSERTIONS):
            graph.erase_node(node)
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            _inline(graph, node)
    for node in list(graph.nodes):
        if is_op(node, *SAME) or _keeps_type(node) or _keeps_shape(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if any(is_unknown(size) for size in symbolic(node)):
            raise GraphError(
                f"{where(node)}: a shape depends on the values of tensors; it may depend on shapes and settings only"
            )


def _keeps_type(node: Node) -> bool:
    """Tell whether a cast gives the dtype, the device and the memory that its input has."""
    if not is_op(node, *CASTS):
        return False
    before, after = value(node.args[0]), value(node)
    if not isinstance(before, Tensor) or (before.dtype, before.device) != (after.dtype, after.device):
        return False
    return not arguments(node).get("copy", False) and before.stride() == after.stride()


def _keeps_shape(node: Node) -> bool:
    """Tell whether a reshape, an expansion or a slice gives its input's shape."""
    if not is_op(node, *RESHAPES) or not same_shape(node, node.args[0]):
        return False
    if value(node).dtype != value(node.args[0]).dtype:  # a view of the same bits as another type
        return False
    return op(node) != "slice" or arguments(node)["step"] == 1


def _inline(graph: fx.Graph, node: Node) -> None:
    """Put the nodes of a part that runs with gradients off in place of the call."""
    name = label(node)
    if name != "wrap_with_set_grad_enabled":
        raise GraphError(f"{where(node)}: {name} is not supported; allowed are plain calls")
    part: Any = node.args[1]
    inner = getattr(graph.owning_module, str(part.target)).graph
    feed = iter(node.args[2:])
    env: dict[Node, Any] = {holder: next(feed) for holder in inner.nodes if holder.op == "placeholder"}
    with graph.inserting_before(node):
        results = graph.graph_copy(inner, env)
    for user in list(node.users):
        assert isinstance(results, tuple) and label(user) == "getitem"
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)
    if not part.users:
        graph.erase_node(part)
