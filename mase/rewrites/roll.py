"""A roll is two slices that are joined in the other order, axis by axis."""

from __future__ import annotations

from torch import fx

from mase.graph import META, Graph, Json, OpNode, Record, TensorType, typed
from mase.rewrites import REWRITES


@REWRITES.add("roll")
def roll(graph: Graph, node: OpNode) -> None:
    """Replace a roll along axes of a sample; leave one along the batch, and any other node."""
    record, attrs = node.record, node.record.attrs
    if node.kind != "layout" or attrs.get("function") != "roll" or record.output.format is not None:
        return
    shape = record.output.shape
    turns = [(axis % len(shape), by) for axis, by in zip(attrs["axes"], attrs["shifts"], strict=True)]
    turns = [(axis, by % shape[axis]) for axis, by in turns if axis and by % shape[axis]]
    if not turns or any(axis % len(shape) == 0 for axis in attrs["axes"]):
        return
    source = node.node.args[0]
    assert isinstance(source, fx.Node)
    for i, (axis, by) in enumerate(turns):
        parts = [
            _slice(graph, node, source, f"{node.name}_{word}{i or ''}", axis, ends)
            for word, ends in (("end", (shape[axis] - by, shape[axis])), ("start", (0, shape[axis] - by)))
        ]
        joined: dict[str, Json] = {"function": "concat", "axis": axis}
        if i == len(turns) - 1:
            node.node.args = tuple(parts)
            node.node.meta[META] = Record("layout", record.path, record.output, joined, source=record.source)
            return
        source = _made(graph, node, tuple(parts), f"{node.name}_turn{i or ''}", record.output, joined)


def _slice(graph: Graph, node: OpNode, source: fx.Node, name: str, axis: int, ends: tuple[int, int]) -> fx.Node:
    kind = node.record.output
    shape = (*kind.shape[:axis], ends[1] - ends[0], *kind.shape[axis + 1 :])
    attrs: dict[str, Json] = {"function": "slice", "axis": axis, "start": ends[0], "end": ends[1], "step": None}
    return _made(graph, node, (source,), name, TensorType(shape, kind.dtype), attrs)


def _made(
    graph: Graph, node: OpNode, sources: tuple[fx.Node, ...], name: str, kind: TensorType, attrs: dict[str, Json]
) -> fx.Node:
    """Return a new layout before a node, with a path of its own below that of the node."""
    with graph.module.graph.inserting_before(node.node):
        made = graph.module.graph.create_node("call_function", typed, sources, {}, name)
    path = f"{node.path}.{name.removeprefix(f'{node.name}_')}"
    made.meta = {META: Record("layout", path, kind, attrs, source=node.record.source)}
    return made
