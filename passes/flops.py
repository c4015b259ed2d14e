"""Count multiply-accumulates and floating-point operations of every node; name those that nobody can count."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from mase.graph import Graph, OpNode
from mase.ops.base import OPS
from mase.ops.operations import Operations
from passes.base import graph_pass
from passes.sample import Sample

FREE = frozenset({"input", "output"})  # kinds that compute nothing


@dataclass(frozen=True)
class FlopsConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class NodeFlops:
    """What one node computes for one sample.

    Args:
        macs: multiply-accumulates. flops: two for each of them, and one for each other operation. Both are None where
            nothing is known, and what is known where ``unknown`` names parts of an outlined node.
    """

    name: str
    path: str
    kind: str
    macs: int | None
    flops: int | None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlopsReport:
    """All operators in order of execution.

    Args:
        unknown: paths that nobody can count, those inside outlined nodes as ``outer/inner``; sums leave them out.
    """

    nodes: tuple[NodeFlops, ...]
    unknown: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample, as far as they are known."""
        return sum(node.macs or 0 for node in self.nodes)

    @property
    def flops(self) -> int:
        """Floating-point operations a sample, as far as they are known."""
        return sum(node.flops or 0 for node in self.nodes)

    @property
    def kinds(self) -> dict[str, int]:
        """Known floating-point operations by kind, the greatest first."""
        found: dict[str, int] = defaultdict(int)
        for node in self.nodes:
            if node.flops is not None:
                found[node.kind] += node.flops
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {**asdict(self), "macs": self.macs, "flops": self.flops, "kinds": self.kinds}


@graph_pass("flops", FlopsConfig, provides=("flops",))
def flops(graph: Graph, config: FlopsConfig) -> tuple[Graph, FlopsReport]:
    """Count what each operator computes for one sample; the graph stays as it is.

    Each kind counts itself (``Op.operations``); a node whose kind cannot is the sum of its body, where it has one.
    Attention counts every score, causal or not, and a mixture of experts those experts that a token is sent to.
    """
    sample, nodes = Sample.of(graph), []
    for node in graph.operators():
        found, unknown = counted(node)
        known = found is not None
        macs, all_ = (sample.share(node, n) for n in ((found.macs, found.flops) if found else (0, 0)))
        nodes.append(
            NodeFlops(node.name, node.path, node.kind, macs if known else None, all_ if known else None, unknown)
        )
    return graph, FlopsReport(tuple(nodes), tuple(path for node in nodes for path in node.unknown))


def counted(node: OpNode) -> tuple[Operations | None, tuple[str, ...]]:
    """Return the operations of a node on its traced shapes, and the paths of what is not known of it."""
    if node.kind in FREE:
        return Operations(), ()
    found = None if node.kind == "opaque" else OPS[node.kind].operations(node)
    body = node.graph.bodies.get(node.name)
    if found is not None or body is None:
        return found, () if found is not None else (node.path,)
    total, unknown = Operations(), list[str]()
    for inner in body.nodes():
        part, missing = counted(inner)
        total += part or Operations()
        unknown += [f"{node.path}/{path}" for path in missing]
    return total, tuple(unknown)
