"""Packed weights on a graph: the format and the parameters of a weight like any other (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from mase.calib.layers import MATRIX, Place, places
from mase.errors import ConfigError
from mase.formats.base import SHARED, Format, QuantParams
from mase.formats.packed import PackedWeight
from mase.graph import META, Graph, OpNode, Record, TensorType, typed


def install(graph: Graph, packed: Mapping[str, PackedWeight], formats: bool = True) -> Graph:
    """Return the graph with packed weights in place of float ones: ``graph(x)`` computes with them, bit for bit.

    The table holds what the weights are (:meth:`PackedWeight.dense`). Where they are one piece in a format whose
    codes follow from these values, the operand has that format and its parameters. A low-rank branch becomes nodes.

    Args:
        packed: by path of the layer. formats: give formats; without them the graph computes the same, and faster.

    Raises:
        ConfigError: an expert has a branch, or some experts of a fused weight are missing.
    """
    groups: dict[tuple[str, str], list[Place]] = {}
    for place in places(graph):
        if place.path in packed:
            groups.setdefault((place.node, place.role), []).append(place)
    tensors, records, quant = dict[str, Tensor](), dict[str, Record](), dict[str, QuantParams]()
    for (name, role), group in groups.items():
        record = records.get(name, graph.node(name).record)
        key, weights = group[0].key, [packed[place.path] for place in group]
        tensors[key] = _table(graph.tensors[key], group, weights)
        found = _format(weights, tensors[key]) if formats and len(group) == _count(graph, group[0]) else None
        kind = replace(record.operands[role], format=None if found is None else found[0])
        records[name] = replace(record, operands={**record.operands, role: kind})
        if found is not None:
            quant[key] = found[1]
    out = graph.replace(records, tensors, quant)
    branches = [place for group in groups.values() for place in group if packed[place.path].branch is not None]
    return _branched(out, branches, packed, formats) if branches else out


def _count(graph: Graph, place: Place) -> int:
    return 1 if place.expert is None else len(graph.tensors[place.key])


def _table(old: Tensor, group: Sequence[Place], weights: Sequence[PackedWeight]) -> Tensor:
    """Return what the table holds, in the layout of what it held: products round as before."""
    if old.dtype != torch.float32:
        kind = str(old.dtype).removeprefix("torch.")
        raise ConfigError(f"layer {group[0].path}: its weights are {kind}; allowed is float32: trace model.float()")
    if group[0].expert is not None:
        new = old.detach().clone()
        for place, weight in zip(group, weights, strict=True):
            assert place.expert is not None
            new[place.expert] = weight.dense().to(old.device)
        return new
    dense = weights[0].dense().to(old.device)
    return dense.t().contiguous().t() if not old.is_contiguous() and old.t().is_contiguous() else dense


def _format(weights: Sequence[PackedWeight], table: Tensor) -> tuple[Format, QuantParams] | None:
    """Return the one format of weights and its parameters; None where values of the table do not keep their codes."""
    first = weights[0].pieces[0].format
    for weight in weights:
        piece = weight.pieces[0]
        plain = len(weight.pieces) == 1 and weight.turn is None and piece.columns is None and piece.mask is None
        if not plain or piece.format != first or piece.params.axis not in (-1, 1):
            return None
    params = [weight.pieces[0].params for weight in weights]
    found = params[0] if table.ndim == MATRIX else _stacked(params)
    if found is None:
        return None
    found = replace(found, axis=-1)
    return (first, found) if torch.equal(first.quantize(table, found), table) else None


def _stacked(params: Sequence[QuantParams]) -> QuantParams | None:
    """Return the parameters of several matrices as those of one tensor; None where that cannot be said."""
    out = params[0]
    for name in SHARED:
        found = [getattr(p, name) for p in params]
        if all(part is None for part in found):
            continue
        if name == "base" or any(part is None or part.ndim < 2 for part in found):
            return None
        out = replace(out, **{name: torch.stack(found)})  # type: ignore[arg-type]  # names of tensors alone
    return out


# -- branches ----------------------------------------------------------------------------------------------------------


def _branched(graph: Graph, branches: Sequence[Place], packed: Mapping[str, PackedWeight], formats: bool) -> Graph:
    """Add ``b (a x)`` behind each layer that has a low-rank branch, as two linear nodes and a sum."""
    for place in branches:
        if place.expert is not None:
            raise ConfigError(f"layer {place.path}: has a low-rank branch; allowed on layers that are not experts")
    out, new = graph.edited()
    parts = dict[str, PackedWeight]()
    tensors = dict(out.tensors)
    nodes = {node.name: node for node in new.nodes}
    for place in branches:
        node, branch = nodes[place.node], packed[place.path].branch
        assert branch is not None
        view = OpNode(out, node)
        lead = (view.inputs[0].node, "a", branch[0])
        with new.inserting_after(node):
            a = _linear(new, view, *lead)
        with new.inserting_after(a):
            b = _linear(new, view, a, "b", branch[1])
        with new.inserting_after(b):
            total = new.call_function(typed, (node, b))
        node.replace_all_uses_with(total, delete_user_cb=lambda user, total=total: user is not total)
        total.name = f"{node.name}_branch"
        total.meta[META] = Record("add", f"{view.path}.branch", view.record.output, source=view.record.source)
        for name, part, added in (("a", branch[0], a), ("b", branch[1], b)):
            tensors[f"{view.path}.branch_{name}.weight"] = part.dense()
            parts[added.meta[META].path] = part
    done = Graph(out.module, tensors, out.quant, bodies=out.bodies)
    return install(done, parts, formats).verify()


def _linear(new: fx.Graph, layer: OpNode, x: fx.Node, name: str, weight: PackedWeight) -> fx.Node:
    """Add one half of a branch."""
    node = new.call_function(typed, (x,))
    node.name = f"{layer.name}_branch_{name}"
    shape, columns = list(layer.record.output.shape), bool(layer.record.attrs.get("columns"))
    shape[-2 if columns else -1] = weight.shape[0]
    node.meta[META] = Record(
        "linear",
        f"{layer.path}.branch_{name}",
        TensorType(tuple(shape)),
        {"columns": True} if columns else {},
        {"weight": TensorType(weight.shape)},
        layer.record.source,
    )
    return node
