"""Compute once what depends on no input: masks, position numbers, rotary tables; see which masks are causal."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from mase.frontend.lift.nodes import Node, ancestors, around, is_op, value
from mase.frontend.lift.work import Work
from mase.graph import Graph

PARAMETRIZED = re.compile(r"(.+)\.parametrizations\.([^.]+)(\.\d+)?$")  # path of a module, name of its parameter
OTHER = 3  # added to every free size, to see whether a mask is causal for another length too


def fold(work: Work) -> None:
    """Replace every node that depends on no input and no parameter by a constant.

    What depends on parameters is left: training and quantization change them.
    """
    _fold_parametrizations(work)
    values: dict[Node, Any] = {}
    for node in list(work.graph.nodes):
        if node.op == "get_attr" and node.target not in work.parameters:
            values[node] = work.tensors[str(node.target)]
        elif node.op == "call_function" and _is_pure(node) and all(n in values for n in node.all_input_nodes):
            values[node] = _call(node, values)
    known: dict[Any, Node] = {}
    for node in [n for n in values if n.op == "call_function"]:
        found = values[node]
        if not isinstance(found, Tensor) or all(user in values for user in node.users):
            continue
        found = _one_of_batch(node, found)
        same = (found.data_ptr(), found.dtype, found.shape, found.stride())  # a view that every layer makes anew
        if same not in known:
            known[same] = work.add_constant(f"{around(node)}.{node.name}".strip("."), found, node)
        node.replace_all_uses_with(known[same], delete_user_cb=lambda user: user not in values)
    _drop_empty(work)
    work.graph.eliminate_dead_code()


def _one_of_batch(node: Node, found: Tensor) -> Tensor:
    """Return the first of equal masks or biases that a batch shares, where every reader spreads it again."""
    spreads = all(is_op(user, "scaled_dot_product_attention", "add") for user in node.users)
    return found[:1].clone() if spreads and found.ndim == 4 and bool((found == found[:1]).all()) else found


def _drop_empty(work: Work) -> None:
    """Leave tensors without elements out of concatenations: a cache starts with one."""
    for node in list(work.graph.nodes):
        if not is_op(node, "cat"):
            continue
        filled = [part for part in node.args[0] if value(part).shape != (0,)]
        node.args = (filled, *node.args[1:])
        if len(filled) == 1:
            node.replace_all_uses_with(filled[0])


def _fold_parametrizations(work: Work) -> None:
    """Compute weights that PyTorch computes at every call from others, such as those of weight norm."""
    values: dict[Node, Any] = {}
    for node in list(work.graph.nodes):
        if node.op == "get_attr":
            values[node] = work.tensors[str(node.target)]
        elif PARAMETRIZED.match(around(node)) and _is_pure(node) and all(n in values for n in node.all_input_nodes):
            values[node] = _call(node, values)
    for node in [n for n in values if n.op == "call_function"]:
        found = PARAMETRIZED.match(around(node))
        if found and isinstance(values[node], Tensor) and any(user not in values for user in node.users):
            path = f"{found[1]}.{found[2]}"
            new = work.add_constant(path, values[node], node)
            node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in values)
            work.notes.append(f"{path}: computed once from its parametrization")
    work.graph.eliminate_dead_code()


def drop_unread(graph: Graph, folded: Iterable[str]) -> Graph:
    """Return a graph without those folded constants that no typed node kept, such as masks that became attributes."""
    read = set(_read(graph))
    return graph.on({key: tensor for key, tensor in graph.tensors.items() if key in read or key not in set(folded)})


def _read(graph: Graph) -> Iterator[str]:
    for node in graph.nodes():
        yield from (node.record.key(role) for role in node.record.operands)
    for body in graph.bodies.values():
        yield from _read(body)


def masks(work: Work, mask: Node) -> str:
    """Say what a mask hides at the traced and at another length: ``later`` positions, ``nothing``, or ``some``."""
    if not _depends_on_sizes_alone(work, mask):
        return "some"
    found = {_hides(_evaluate(work, mask, extra)) for extra in (0, OTHER if _is_dynamic(mask) else 0)}
    return found.pop() if len(found) == 1 else "some"


def _is_pure(node: Node) -> bool:
    """Tell whether a call gives the same at every run."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in target.tags and not target._schema.is_mutable
    return getattr(operator, getattr(target, "__name__", ""), None) is target


def _call(node: Node, values: Mapping[Node, Any]) -> Any:  # tensors, numbers, tuples of them
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _depends_on_sizes_alone(work: Work, node: Node) -> bool:
    """Tell whether a tensor is computed from constants and sizes of inputs, not from values or parameters."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if current.op == "placeholder" or (current.op == "call_function" and not _is_pure(current)):
            return False
        if current.op == "get_attr" and current.target in work.parameters:
            return False
        if current not in seen and not is_op(current, "sym_size"):
            waiting.extend(current.all_input_nodes)
        seen.add(current)
    return True


def _is_dynamic(node: Node) -> bool:
    return any(is_op(above, "sym_size") for above in ancestors(node))


def _evaluate(work: Work, node: Node, extra: int) -> Tensor:
    """Compute a tensor that depends on sizes alone, with ``extra`` added to every free size."""
    values: dict[Node, Any] = {}
    needed, waiting = set(), [node]
    while waiting:
        current = waiting.pop()
        if current not in needed:
            needed.add(current)
            waiting.extend([] if is_op(current, "sym_size") else current.all_input_nodes)
    for current in work.graph.nodes:
        if current not in needed:
            continue
        if current.op == "get_attr":
            values[current] = work.tensors[str(current.target)]
        elif is_op(current, "sym_size"):
            values[current] = int(value(current).node.hint) + extra
        else:
            values[current] = _call(current, values)
    found: Tensor = values[node]
    return found


def _hides(mask: Tensor) -> str:
    """Say what a mask, boolean or added, hides: see :func:`masks`."""
    hidden = ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min
    if mask.dtype != torch.bool and not bool((hidden | (mask == 0)).all()):
        return "some"
    if not bool(hidden.any()):
        return "nothing"
    if mask.ndim < 2 or mask.shape[-1] != mask.shape[-2]:
        return "some"
    later = torch.ones(mask.shape[-2:], dtype=torch.bool).tril().logical_not()
    return "later" if bool((hidden == later).all()) else "some"
