"""Pairs of a node that can absorb a factor a feature and the layers that undo it, from a graph (docs/ptq.md)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from mase.graph import Graph, OpNode
from mase.ops.base import OPS, Absorb

LEAST = 1e-5  # of a factor


@dataclass(frozen=True, eq=False)
class Pair:
    """Say where factors of the features of an edge go: the absorber gives ``x / s``, the consumers have ``W s``.

    Args:
        edge: name. features: of it. absorber: name of a norm or of a linear node, whose result is this edge alone.
        path: of the absorber.
        norm: the absorber is one. offset: that its weight is stored less, such as 1. weight, bias: its keys.
        consumers: keys whose last axis counts the features, all that read the edge. paths: of their nodes.
        rows: which output of the absorber each feature comes from; None: its own. Features with one row share a factor.
        head: size of the heads that the features are of; 0 where they are of none.
    """

    edge: str
    features: int
    absorber: str
    path: str
    norm: bool
    offset: float
    weight: str
    bias: str | None
    consumers: tuple[str, ...]
    paths: tuple[str, ...]
    rows: Tensor | None = None
    head: int = 0

    def tied(self, factors: Tensor) -> Tensor:
        """Return factors above 0 that features of one row share: their geometric mean."""
        factors = factors.clamp(min=LEAST)
        if self.rows is None:
            return factors
        logs = factors.log()
        total = torch.zeros(int(self.rows.max()) + 1, dtype=logs.dtype).index_add_(0, self.rows, logs)
        count = torch.bincount(self.rows).to(logs.dtype)
        return (total / count)[self.rows].exp()

    def by_row(self, factors: Tensor) -> Tensor:
        """Return the factor of each output of the absorber."""
        if self.rows is None:
            return factors
        first = torch.zeros(int(self.rows.max()) + 1, dtype=torch.int64)
        first[self.rows] = torch.arange(self.features)
        return factors[first]

    def folded(self, graph: Graph, factors: Tensor) -> dict[str, Tensor]:
        """Return the tensors of the graph with factors folded in, by key.

        Args:
            factors: ``[features]``, above 0; of features that share a row equal, as :meth:`tied` makes them.
        """
        s = factors.to(torch.float64)
        own = self.by_row(s)
        old = {key: graph.tensors[key].detach() for key in (self.weight, self.bias, *self.consumers) if key}
        new = {key: (old[key].double() * s) for key in self.consumers}
        weight = old[self.weight].double()
        new[self.weight] = (weight + self.offset) / own - self.offset if self.norm else weight / own.unsqueeze(1)
        if self.bias:
            new[self.bias] = old[self.bias].double() / own
        return {key: x.to(old[key].dtype) for key, x in new.items()}


def pairs(graph: Graph) -> list[Pair]:
    """Return the pairs of a graph, in order of execution; tensors that several nodes share take part in none."""
    uses = Counter(node.record.key(role) for node in graph.nodes() for role in node.record.operands)
    outputs = {node.name for node in graph.output.inputs}
    found = (_pair(node, uses, outputs) for node in graph.operators())
    return [pair for pair in found if pair is not None]


def _pair(edge: OpNode, uses: Counter[str], outputs: set[str]) -> Pair | None:
    shape = edge.record.output.shape
    consumers = _consumers(edge)
    if edge.name in outputs or not shape or not consumers or edge.record.output.format is not None:
        return None
    found = _absorber(edge, shape[-1])
    if found is None:
        return None
    absorber, way, rows, head = found
    record = absorber.record
    weight, bias = record.key("weight"), record.key("bias") if "bias" in record.operands else None
    keys = [key for _, key in consumers]
    if any(uses[key] != 1 for key in (weight, *([bias] if bias else []), *keys)):
        return None
    size = record.operands["weight"].shape[0]
    if size != (shape[-1] if rows is None else int(rows.max()) + 1):
        return None
    paths = tuple(dict.fromkeys(path for path, _ in consumers))
    names = edge.name, shape[-1], absorber.name, absorber.path, not way.rows, way.offset, weight, bias
    return Pair(*names, tuple(keys), paths, rows, head)


def _consumers(edge: OpNode) -> list[tuple[str, str]]:
    """Return path and key of the weights that multiply an edge; none where anything else reads it."""
    out: list[tuple[str, str]] = []
    for user in edge.users:
        roles = OPS[user.kind].multiplies(user) if user.kind in OPS else ()
        if not roles:
            return []
        out += [(user.path, user.record.key(role)) for role in roles]
    return out


def _absorber(edge: OpNode, features: int) -> tuple[OpNode, Absorb, Tensor | None, int] | None:
    """Return the node that can give its features divided by factors, how, the row of each feature, and its head."""
    node, plain, rows, head = edge, True, None, 0
    while node is edge or len(node.users) == 1:
        if way := _own(node):
            fits = plain if rows is None else way.rows and not way.activation
            return (node, way, rows, head) if fits else None
        passage = OPS[node.kind].passes(node) if node.kind in OPS else None
        if passage is None or (passage.rows is not None and (rows is not None or len(passage.rows) != features)):
            return None
        sources = [node.inputs[i] for i in passage.inputs]
        if len(sources) > 1:
            sources = [s for s in sources if (way := _own(s)) and way.rows and len(s.users) == 1]
            sources = sources if sources and sources[-1].record.output.shape[-1] == features else []
        if not sources:
            return None
        node, plain = sources[-1], plain and passage.plain
        rows, head = (rows, head) if passage.rows is None else (passage.rows, passage.head)
    return None


def _own(node: OpNode) -> Absorb | None:
    return OPS[node.kind].absorbs(node.record) if node.kind in OPS else None


def scores(node: OpNode) -> bool:
    """Tell whether a layer gives the queries or the keys of an attention."""
    for user in node.users:
        for index, source in enumerate(user.inputs):
            looks = source.name == node.name and user.kind in OPS and OPS[user.kind].looks(user.record, index)
            if looks or (looks is None and scores(user)):
                return True
    return False
