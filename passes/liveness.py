"""Say how long every tensor is needed and how much memory activations take, node by node and at the worst moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mase.graph import Graph, OpNode
from mase.ops.base import view
from passes.base import graph_pass
from passes.sample import Sample, stored_bits

Size = Callable[[OpNode], int]  # bits that a node's result takes


@dataclass(frozen=True)
class LivenessConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class NodeLiveness:
    """One step of execution.

    Args:
        bytes: of the result, 0 for a view, which lives in the memory of its input, and for a constant.
        live: bytes in use while the node runs: everything that it or a later node reads, its result, and the tensors
            inside an outlined node. until: path of the last node that reads the memory of the result.
    """

    name: str
    path: str
    kind: str
    bytes: int
    live: int
    until: str


@dataclass(frozen=True)
class LivenessReport:
    """All nodes in order of execution, for one sample.

    Args:
        peak: most bytes in use at a time. at: path of the node that then runs. alive: what lies there, path -> bytes.
        unknown: paths of opaque nodes, those inside outlined nodes as ``outer/inner``: they may use more memory than
            their result.
    """

    nodes: tuple[NodeLiveness, ...]
    peak: int
    at: str
    alive: Mapping[str, int]
    unknown: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return asdict(self)


@graph_pass("liveness", LivenessConfig, provides=("liveness",))
def liveness(graph: Graph, config: LivenessConfig) -> tuple[Graph, LivenessReport]:
    """Follow the memory of activations through the graph, in order of execution; the graph stays as it is.

    An input lies in memory from the start of its node to its last reader, a result of the model to the end. Formats
    count as they are stored. Views of a tensor keep it alive and take nothing.
    """
    sample = Sample.of(graph)
    steps = walk(graph, sample.bits, lambda node: sample.share(node, scratch(node)))
    nodes = tuple(_described(step, steps[step.last].node.path) for step in steps if step.node.kind != "output")
    worst = max(steps, key=lambda step: step.live)
    now = steps.index(worst)
    alive = {step.node.path: _bytes(step.bits) for step in steps[: now + 1] if step.bits and step.last >= now}
    return graph, LivenessReport(nodes, _bytes(worst.live), worst.node.path, alive, tuple(_opaque(graph)))


@dataclass(frozen=True)
class Step:
    """One node's memory in bits: of its result, and in use while it runs; ``last``: step of the last reader."""

    node: OpNode
    bits: int
    live: int
    last: int


def walk(graph: Graph, size: Size, extra: Size) -> list[Step]:
    """Return every node with its memory; ``extra`` is what a node needs besides its result while it runs."""
    nodes = list(graph.nodes())
    roots, last = storage(nodes), dict[str, int]()
    for i, node in enumerate(nodes):
        for name in (node.name, *(producer.name for producer in node.inputs)):
            last[roots[name]] = i
    dying, steps, total = defaultdict[int, int](int), list[Step](), 0  # bits that are free after a step
    for i, node in enumerate(nodes):
        owner = roots[node.name] == node.name and node.kind not in ("constant", "output")
        own = size(node) if owner else 0
        total += own
        dying[last[roots[node.name]]] += own
        steps.append(Step(node, own, total + extra(node), last[roots[node.name]]))
        total -= dying[i]
    return steps


def storage(nodes: Iterable[OpNode]) -> dict[str, str]:
    """Return, by name, the node in whose memory a node's result lies: itself, or what it is a view of."""
    roots = dict[str, str]()
    for node in nodes:
        roots[node.name] = roots[node.inputs[0].name] if view(node) else node.name
    return roots


def scratch(node: OpNode) -> int:
    """Return the bits that the inside of an outlined node needs at its worst moment, its inputs and result left out."""
    body = node.graph.bodies.get(node.name)
    if body is None:
        return 0
    roots = storage(body.nodes())
    outside = {roots[inner.name] for inner in (*body.inputs, *body.output.inputs)}

    def size(inner: OpNode) -> int:
        return 0 if inner.name in outside else stored_bits(inner.record.output, inner.record.output.shape, -1)

    return max(step.live for step in walk(body, size, scratch))


def _opaque(graph: Graph, outer: str = "") -> Iterator[str]:
    for node in graph.operators():
        if node.kind == "opaque":
            yield outer + node.path
        elif node.name in graph.bodies:
            yield from _opaque(graph.bodies[node.name], f"{outer}{node.path}/")


def _described(step: Step, until: str) -> NodeLiveness:
    node = step.node
    return NodeLiveness(node.name, node.path, node.kind, _bytes(step.bits), _bytes(step.live), until)


def _bytes(bits: int) -> int:
    return -(-bits // 8)
