"""Measure quantization noise: the quantized graph against the float graph, on the same inputs, edge by edge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from mase.errors import ConfigError, GraphError
from mase.graph import Graph, Record, new_type
from mase.interpreter import run
from passes.base import graph_pass

Batch = Tensor | tuple[Tensor, ...]
HOW = ("accumulation", "rounding")  # attributes that only integer arithmetic reads


@dataclass(frozen=True)
class NoiseConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class EdgeNoise:
    """One edge, noise of everything before it included.

    Args:
        snr_db: 10 log10 of signal power over error power; infinite where equal.
        cosine: similarity of both as vectors, -1..1; 1 where both are zero. max_error: greatest absolute difference.
    """

    name: str
    path: str
    kind: str
    format: str | None
    snr_db: float
    cosine: float
    max_error: float


@dataclass(frozen=True)
class NoiseReport:
    """All edges in order of execution, on this many samples."""

    samples: int
    edges: tuple[EdgeNoise, ...]

    @property
    def snr_db(self) -> Mapping[str, float]:
        """Signal-to-noise ratio in dB by edge name."""
        return {edge.name: edge.snr_db for edge in self.edges}

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data; an infinite ratio is the text ``Infinity``."""
        found = asdict(self)
        for edge in found["edges"]:
            if math.isinf(edge["snr_db"]):
                edge["snr_db"] = "Infinity" if edge["snr_db"] > 0 else "-Infinity"
        return found


@graph_pass("noise", NoiseConfig, requires=("formats",), provides=("noise",))
def noise(
    graph: Graph, config: NoiseConfig, reference: Graph | None = None, data: Iterable[Batch] = ()
) -> tuple[Graph, NoiseReport]:
    """Run both graphs on the same batches and compare every edge; the graph stays as it is.

    Args:
        graph: quantized. reference: float graph of the same nodes; None takes ``graph`` without its formats.
        data: batches, a tensor or one tensor an input each; taken one by one, only sums are kept.

    Raises:
        ConfigError: there is no data. GraphError: the graphs differ in more than formats; names the node.
    """
    reference = without_formats(graph) if reference is None else reference
    _check(graph, reference)
    sums: dict[str, _Sums] = {node.name: _Sums() for node in graph.nodes() if node.kind != "output"}
    samples = 0
    for batch in data:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        exact, rounded = run(reference, inputs, keep=True), run(graph, inputs, keep=True)
        samples += inputs[0].shape[0]
        for name, total in sums.items():
            total.add(exact.real(name), rounded.real(name))
    if not samples:
        raise ConfigError("noise: found no samples; allowed are 1 or more batches of graph inputs")
    return graph, NoiseReport(samples, tuple(_edge(graph, name, total) for name, total in sums.items()))


def without_formats(graph: Graph) -> Graph:
    """Return the graph in float: the same nodes and tensors, no formats."""
    records: dict[str, Record] = {}
    for node in graph.nodes():
        record = node.record
        operands = {role: new_type(kind, None) for role, kind in record.operands.items()}
        records[node.name] = replace(record, output=new_type(record.output, None), operands=operands)
    return graph.replace(records)


class _Sums:
    """Add up powers, in float64."""

    def __init__(self) -> None:
        self.signal = self.other = self.product = self.error = self.most = 0.0

    def add(self, exact: Tensor, rounded: Tensor) -> None:
        a, b = exact.double().flatten(), rounded.double().flatten()
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.product += float(a @ b)
        difference = b - a
        self.error += float(difference @ difference)
        self.most = max(self.most, float(difference.abs().max()) if difference.numel() else 0.0)

    def snr_db(self) -> float:
        if self.error == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.error) if self.signal else -math.inf

    def cosine(self) -> float:
        if not self.signal or not self.other:
            return 1.0 if self.signal == self.other else 0.0
        return max(-1.0, min(1.0, self.product / math.sqrt(self.signal) / math.sqrt(self.other)))


def _edge(graph: Graph, name: str, total: _Sums) -> EdgeNoise:
    record = graph.node(name).record
    fmt = None if record.output.format is None else str(record.output.format)
    return EdgeNoise(name, record.path, record.kind, fmt, total.snr_db(), total.cosine(), total.most)


def _check(graph: Graph, reference: Graph) -> None:
    """Refuse graphs that differ in more than formats: what stands on the same edge would mean different things."""
    known = {node.name: node for node in reference.nodes()}
    for node in graph.nodes():
        other = known.get(node.name)
        if other is None:
            raise GraphError(f"noise: {node.where()}: is not in the reference; give the graph before quantization")
        if _meaning(node.record) != _meaning(other.record):
            raise GraphError(f"noise: {node.where()}: computes something else in the reference, a {other.kind} node")


def _meaning(record: Record) -> tuple[object, ...]:
    attrs = {name: value for name, value in record.attrs.items() if name not in HOW}
    return record.kind, attrs, record.output.shape[1:]
