"""Put a requantize node before every input that comes in another format than its reader takes."""

from __future__ import annotations

from dataclasses import dataclass

from mase.calib.adapt import inserted
from mase.graph import Graph
from passes.base import graph_pass


@dataclass(frozen=True)
class AdaptConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class AdaptReport:
    """Names of the nodes that were put in."""

    adapters: tuple[str, ...]


@graph_pass("adapt", AdaptConfig, provides=("adapters",))
def adapt(graph: Graph, config: AdaptConfig) -> tuple[Graph, AdaptReport]:
    """Put a requantize node before each input that may have to come in another format, such as those of a join.

    The quantize pass does this itself, gives each of them the format that its reader asks for, and takes out those
    that change nothing.
    """
    done = inserted(graph)
    known = {node.name for node in graph.nodes()}
    return done, AdaptReport(tuple(node.name for node in done.operators() if node.name not in known))
