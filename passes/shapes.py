"""Say what every node gives, multiplies and stores: one table of all nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mase.graph import Graph, OpNode
from passes.base import graph_pass
from passes.flops import flops
from passes.parameters import NodeParameters, parameters
from passes.sample import Sample


@dataclass(frozen=True)
class ShapesConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class NodeShape:
    """What one node is made of.

    Args:
        shape: of the produced tensor, one sample. macs: a sample; None where nobody can count them.
        parameters: elements. weight_bits: stored for them, shared fields counted.
        activation_bits: of the produced tensor, one sample. format: of the produced tensor, None for real values.
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    format: str | None
    macs: int | None
    parameters: int
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True)
class ShapesReport:
    """All nodes in order of execution, and sums in which a tensor that two nodes share counts once.

    Args:
        uncounted: paths of nodes whose multiplications are not known.
    """

    nodes: tuple[NodeShape, ...]
    parameters: int
    weight_bits: int
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample, as far as they are known."""
        return sum(node.macs or 0 for node in self.nodes)

    @property
    def bits_per_parameter(self) -> float:
        """Average stored bits of a parameter; 0 where there is none."""
        return self.weight_bits / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {**asdict(self), "macs": self.macs, "bits_per_parameter": self.bits_per_parameter}


@graph_pass("shapes", ShapesConfig, provides=("shapes",))
def shapes(graph: Graph, config: ShapesConfig) -> tuple[Graph, ShapesReport]:
    """Say what each node gives, beside what ``flops`` and ``parameters`` count; the graph stays as it is."""
    computed, held = flops(graph)[1], parameters(graph)[1]
    macs = {node.name: node.macs for node in computed.nodes}
    stored = {node.name: node for node in held.nodes}
    sample = Sample.of(graph)
    nodes = tuple(
        _joined(node, sample, macs.get(node.name, 0), stored.get(node.name))
        for node in graph.nodes()
        if node.kind != "output"
    )
    return graph, ShapesReport(nodes, held.parameters, held.bits, computed.unknown)


def _joined(node: OpNode, sample: Sample, macs: int | None, stored: NodeParameters | None) -> NodeShape:
    fmt = node.record.output.format
    return NodeShape(
        name=node.name,
        path=node.path,
        kind=node.kind,
        shape=sample.shape(node),
        format=None if fmt is None else str(fmt),
        macs=macs,
        parameters=stored.parameters if stored else 0,
        weight_bits=stored.bits if stored else 0,
        activation_bits=sample.bits(node),
    )
