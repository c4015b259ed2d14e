"""Cut the code of a module out of a traced graph: one node of a kind, whose body is a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from mase.frontend.calls import SPEC, kind_of
from mase.graph import META, Graph, NodeGraph, Record, TensorType


class Refused(Exception):
    """A region is not a node of its kind; the text says why."""


@dataclass(frozen=True)
class Region:
    """Hold a region of a graph.

    Args:
        nodes: in order; the access of parameters is not among them. ports: what it reads. result: what others read.
    """

    nodes: Sequence[fx.Node]
    ports: Sequence[fx.Node]
    result: fx.Node

    @classmethod
    def of(cls, nodes: Sequence[fx.Node]) -> Region:
        """Find what a region reads and gives.

        Raises:
            Refused: it gives nothing, several results, or no tensor.
        """
        inside = set(nodes)
        read = [source for node in nodes for source in node.all_input_nodes]
        ports = dict.fromkeys(node for node in read if node not in inside and node.op != "get_attr")
        results = [node for node in nodes if any(user not in inside for user in node.users)]
        if len(results) != 1 or not isinstance(kind_of(results[0]), TensorType):
            raise Refused(f"it has {len(results)} results; a kind has one tensor")
        if not all(isinstance(kind_of(port), TensorType) for port in ports):
            raise Refused("it reads a size that is free")
        return cls(nodes, tuple(ports), results[0])

    def body(self, model: nn.Module, finish: Callable[[fx.Graph], None]) -> Graph:
        """Return a copy of the region as a graph with an input a port; its tensors are those of whoever holds it.

        Args:
            finish: gives every node that has none its record.
        """
        inner = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}

        def copied(node: fx.Node) -> fx.Node:
            if node not in env:  # a parameter
                env[node] = inner.node_copy(node)
                env[node].meta = dict(node.meta)
            return env[node]

        for port in self.ports:
            env[port] = inner.placeholder(port.name)
            record = Record("input", env[port].name, kind_of(port), {"axes": _axes(port)})
            env[port].meta = {SPEC: port.meta[SPEC], META: record}
        for node in self.nodes:
            env[node] = inner.node_copy(node, copied)
            env[node].meta = dict(node.meta)
        last = inner.output(env[self.result])
        last.meta = {META: Record("output", last.name, kind_of(self.result))}
        finish(inner)
        return Graph(NodeGraph(model, inner), {})


def _axes(node: fx.Node) -> list[str]:
    """Return names of the axes of a port that are free; axes of the same sizes in both samples have one name."""
    pairs = zip(kind_of(node, 0).shape, kind_of(node, 1).shape, strict=True)
    return ["" if a == b else f"size_{a}_{b}" for a, b in pairs]
