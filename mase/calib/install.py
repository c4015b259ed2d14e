"""Packed weights on a graph: the format and the parameters of a weight like any other (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from mase.calib.layers import Place, places
from mase.errors import ConfigError
from mase.formats.base import QuantParams
from mase.formats.packed import Held, PackedWeight, on_graph
from mase.graph import META, Graph, OpNode, Record, TensorType, typed

NOWHERE = "meta"  # device of tensors that are shapes alone


def install(graph: Graph, packed: Mapping[str, PackedWeight], formats: bool = True) -> Graph:
    """Return the graph with packed weights in place of float ones: ``graph(x)`` computes with them, bit for bit.

    The table holds what the weights are (:meth:`PackedWeight.dense`), and the operand has their format and its
    parameters (:func:`on_graph`). A low-rank branch becomes nodes.

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
        if formats and len(group) == _count(graph, group[0]):
            bare = tuple(replace(weight, branch=None) for weight in weights)
            fmt, quant[key] = on_graph(Held(bare, tuple(tensors[key].shape)))
            kind = replace(record.operands[role], format=fmt)
            record = replace(record, operands={**record.operands, role: kind})
        records[name] = record
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
        new = old.detach().clone() if old.device.type != NOWHERE else torch.empty(old.shape)
        for place, weight in zip(group, weights, strict=True):
            assert place.expert is not None
            new[place.expert] = weight.dense().to(new.device)
        return new
    dense = weights[0].dense() if old.device.type == NOWHERE else weights[0].dense().to(old.device)
    return dense.t().contiguous().t() if not old.is_contiguous() and old.t().is_contiguous() else dense


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
