"""Graphs of many modules, written as text."""

from __future__ import annotations

from mase.report.summary import Dataflow, Edge, Node
from mase.report.trace import Row, Traced


def graph(text: str) -> Dataflow:
    """Read ``path:kind < reader's inputs`` lines; a path without a dot that starts with ``_`` has no module."""
    nodes, edges = list[Node](), list[Edge]()
    for line in text.split():
        what, _, sources = line.partition("<")
        path, _, kind = what.partition(":")
        name = path.replace(".", "_")
        nodes.append(Node(name, path, kind or "linear"))
        edges += [Edge(source.replace(".", "_"), name, (8,), None) for source in sources.split(",") if source]
    return Dataflow(tuple(nodes), tuple(edges))


TABLE = "table:constant"
LAYER = "l.{0}.norm<{1} l.{0}.att.q<l.{0}.norm l.{0}.att.mix<l.{0}.att.q,table add{0}:add<{1},l.{0}.att.mix"


def layers(count: int) -> Dataflow:
    parts, before = ["ids:input", TABLE, "embed<ids"], "embed"
    for i in range(count):
        parts.append(LAYER.format(i, before))
        before = f"add{i}"
    return graph(" ".join([*parts, f"head<{before}", "output:output<head"]))


def page(count: int, name: str = "large") -> Traced:
    """Return a traced model of that many layers; ``name`` stands in every text."""
    drawn = layers(count)
    rows = tuple(Row(n.name, n.path, n.kind, (8,), 10**9, 10**6, 10**7, 10**8) for n in drawn.nodes[:-1])
    totals = {"nodes": len(rows), "MACs": 10**15, "peak activations, bytes": 9_999_999}
    told = {f"{name}.{i}": f"no typed kind for {name}" for i in range(30)}
    return Traced(name, "as the model", totals, {name: name}, told, (name,), (name,), rows, drawn)
