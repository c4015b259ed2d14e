"""What tracing a model found, as an HTML page: totals, what was not understood, the graph by module, all nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mase.files import write_atomic
from mase.frontend.report import TraceReport
from mase.graph import Graph
from mase.report.html import graph_svg, templates
from mase.report.modules import Facts, collapsed, drawn, pictures
from mase.report.summary import Dataflow, Edge, Node

MOST = 300  # nodes of a picture that nobody can open


@dataclass(frozen=True)
class Row:
    """One node.

    Args:
        shape, macs, live: of one sample; macs None where nobody can count them, live: bytes in use while the node runs.
        bytes: stored for its parameters and constants.
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    macs: int | None
    parameters: int
    bytes: int
    live: int


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Args:
        name: of the model. lead: how well it was understood, in one line. totals: what to say first, by label.
        refused, opaque: paths and why. unknown: paths whose operations nobody can count. notes: one line each.
        rows, graph: all nodes in order of execution.
    """

    name: str
    lead: str
    totals: Mapping[str, int]
    refused: Mapping[str, str]
    opaque: Mapping[str, str]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    graph: Dataflow

    @property
    def facts(self) -> dict[str, Facts]:
        """What a picture says of each node, by name."""
        return {row.name: Facts(row.macs or 0, row.parameters, int(row.macs is None)) for row in self.rows}


def assemble(name: str, graph: Graph, report: TraceReport, found: Mapping[str, Any]) -> Traced:
    """Join what the analyses found.

    Args:
        found: reports of the passes ``shapes``, ``flops``, ``parameters`` and ``liveness`` in JSON, by name.
    """
    shapes, parameters, live = found["shapes"], found["parameters"], found["liveness"]
    stored = {node["name"]: sum(tensor["bits"] for tensor in node["tensors"]) for node in parameters["nodes"]}
    steps = {node["name"]: node["live"] for node in live["nodes"]}
    rows = [
        Row(
            name=node["name"],
            path=node["path"],
            kind=node["kind"],
            shape=tuple(node["shape"]),
            macs=node["macs"],
            parameters=node["parameters"],
            bytes=-(-stored.get(node["name"], 0) // 8),
            live=steps[node["name"]],
        )
        for node in shapes["nodes"]
    ]
    totals = {
        "nodes": len(rows),
        "MACs": shapes["macs"],
        "FLOPs": found["flops"]["flops"],
        "parameters": parameters["parameters"],
        "parameters and constants, bytes": parameters["bytes"],
        "peak activations, bytes": live["peak"],
    }
    unknown = tuple(path for path in found["flops"]["unknown"] if path not in report.opaque)
    lead = str(report).partition("\n")[0]
    flow = _dataflow(graph, {row.name: row.shape for row in rows})
    return Traced(name, lead, totals, report.refused, report.opaque, unknown, report.notes, tuple(rows), flow)


def _dataflow(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Dataflow:
    edges = []
    for node in graph.nodes():
        for source in node.inputs:
            fmt = source.record.output.format
            edges.append(Edge(source.name, node.name, shapes[source.name], None if fmt is None else str(fmt)))
    return Dataflow(tuple(Node(node.name, node.path, node.kind) for node in graph.nodes()), tuple(edges))


def render(traced: Traced) -> str:
    """Return the page; no script, no request, nothing beside it.

    Raises:
        GraphError: an edge does not lead from a node to a later one.
    """
    root = drawn(traced.graph, traced.facts)
    return templates().get_template("trace.html").render(traced=traced, root=root, draw=pictures, standalone=False)


def write(traced: Traced, path: str | Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        MaseError: the folder is read-only or full.
    """
    write_atomic(path, render(traced))


def write_svg(graph: Dataflow, path: str | Path) -> bool:
    """Write the graph as one picture, and tell whether modules stand for nodes in it because these are too many."""
    small = collapsed(graph, MOST)
    write_atomic(path, graph_svg(small))
    return small is not graph
