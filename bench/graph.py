"""Graphs of 10,000 nodes: verify, copy, look up, save, run.

CPU seconds on one thread, medians of 5. A chain of layers, as tracing makes it, stands for a large model. Besides, the
bytes of weights that tracing and one pass copy: none.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import fx, nn

from bench.common import Figure, main, median_cpu_seconds
from mase.frontend.module import trace_module
from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed
from mase.interpreter import run
from passes.fuse import fuse

NODES = 10_000


def chain() -> Graph:
    """Return a graph of linear layers of one feature, each followed by a residual add and a GELU."""
    graph, kind = fx.Graph(), TensorType((1, 1))
    node = graph.placeholder("x")
    node.meta = {META: Record("input", "x", kind)}
    tensors = {}
    for i in range(NODES // 3):
        tensors[f"layers.{i}.weight"] = torch.ones(1, 1)
        layer = graph.call_function(typed, (node,))
        layer.meta = {META: Record("linear", f"layers.{i}", kind, {}, {"weight": kind})}
        added = graph.call_function(typed, (node, layer))
        added.meta = {META: Record("add", f"layers.{i}.add", kind)}
        node = graph.call_function(typed, (added,))
        node.meta = {META: Record("activation", f"layers.{i}.gelu", kind, {"function": "gelu"})}
    graph.output(node).meta = {META: Record("output", "output", kind)}
    return Graph(NodeGraph(nn.Module(), graph), tensors)


def look_up(graph: Graph) -> None:
    """Find every node by name and by path."""
    for node in list(graph.nodes()):
        graph.node(node.name)
        graph.node(node.path)


def save_and_load(graph: Graph) -> None:
    """Write a graph and read it again."""
    with tempfile.TemporaryDirectory() as folder:
        graph.save(Path(folder))
        Graph.load(Path(folder))


def copied_bytes() -> int:
    """Return the bytes of parameters that are not the model's own after tracing and one pass."""
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))).eval()
    graph = fuse(trace_module(model, torch.randn(1, 512))[0])[0]
    own = {tensor.data_ptr() for tensor in model.parameters()}
    return sum(t.numel() * t.element_size() for t in graph.tensors.values() if t.data_ptr() not in own)


def measure() -> list[Figure]:
    """Time one large graph."""
    graph, x = chain(), torch.ones(1, 1)
    work = {
        "verify": (graph.verify, 1.0),
        "to_networkx": (graph.to_networkx, 1.0),
        "copy": (graph.replace, 1.0),
        "look_up": (lambda: look_up(graph), 1.0),
        "save_and_load": (lambda: save_and_load(graph), None),
        "run": (lambda: run(graph, (x,)), None),
    }
    figures = [
        Figure(f"graph_{name}", median_cpu_seconds(step), "s", at_most=bar) for name, (step, bar) in work.items()
    ]
    return [*figures, Figure("graph_copied_weights", copied_bytes(), "bytes", at_most=0)]


if __name__ == "__main__":
    main(__doc__, measure)
