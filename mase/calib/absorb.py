"""Pairs of a node that can absorb a factor a feature and the layers that undo it, from a graph (docs/ptq.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mase.graph import Graph, OpNode

LEAST = 1e-5  # of a factor
NORMS = ("layer", "rms")
HOMOGENEOUS = ("relu",)  # f(x / s) = f(x) / s for every s above 0


@dataclass(frozen=True, eq=False)
class Pair:
    """Say where factors of the features of an edge go: the absorber gives ``x / s``, the consumers have ``W s``.

    Args:
        edge: name. features: of it. absorber: name of a norm or of a linear node, whose result is this edge alone.
        path: of the absorber.
        norm: the absorber is one. offset: that its weight is stored less, such as 1. weight, bias: its keys.
        consumers: keys whose last axis counts the features, all that read the edge. paths: of their nodes.
        rows: which output of the absorber each feature comes from; None: its own. Features with one row share a factor.
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
    absorber, rows = _absorber(edge, shape[-1])
    if absorber is None:
        return None
    record, norm = absorber.record, absorber.kind == "norm"
    weight, bias = record.key("weight"), record.key("bias") if "bias" in record.operands else None
    keys = [key for _, key in consumers]
    if any(uses[key] != 1 for key in (weight, *([bias] if bias else []), *keys)):
        return None
    size = record.operands["weight"].shape[0]
    if size != (shape[-1] if rows is None else int(rows.max()) + 1):
        return None
    offset = float(record.attrs.get("offset", 0.0)) if norm else 0.0
    paths = tuple(dict.fromkeys(path for path, _ in consumers))
    return Pair(
        edge.name, shape[-1], absorber.name, absorber.path, norm, offset, weight, bias, tuple(keys), paths, rows
    )


def _consumers(edge: OpNode) -> list[tuple[str, str]]:
    """Return path and key of the weights that multiply an edge; none where anything else reads it."""
    out: list[tuple[str, str]] = []
    for user in edge.users:
        record = user.record
        if user.kind == "linear" and not record.attrs.get("columns"):
            out.append((user.path, record.key("weight")))
        elif user.kind == "moe" and "router" in record.operands and len(user.inputs) == 1 and _routes(user):
            out += [(user.path, record.key(role)) for role in ("router", "gate_up")]
        else:
            return []
    return out


def _routes(moe: OpNode) -> bool:
    """Tell whether router and experts alone read what a mixture takes; one with a body may do more."""
    body = moe.graph.bodies.get(moe.name)
    return body is None or sum(1 for _ in _readers(body.inputs[0])) == len(("router", "gate_up"))


def _readers(node: OpNode) -> Iterator[OpNode]:
    """Yield the nodes behind an edge, those behind its views instead of them."""
    for user in node.users:
        if user.kind == "layout":
            yield from _readers(user)
        else:
            yield user


def _alone(node: OpNode) -> bool:
    return len(node.users) == 1


def _absorber(edge: OpNode, features: int) -> tuple[OpNode | None, Tensor | None]:
    """Return the node that can give its features divided by factors, and the row of each feature."""
    node, plain = edge, True
    while True:
        if node.kind == "norm":
            attrs = node.record.attrs
            fits = attrs["function"] in NORMS and list(attrs.get("shape", ())) == [features]
            return (node, None) if plain and fits and "weight" in node.record.operands else (None, None)
        if node.kind == "linear":
            own = (
                plain and not node.record.attrs.get("columns") and node.record.attrs.get("activation") in (None, "relu")
            )
            return (node, None) if own and (node is edge or _alone(node)) else (None, None)
        if node is not edge and not _alone(node):
            return None, None
        if node.kind == "activation" and node.record.attrs.get("function") in HOMOGENEOUS:
            node = node.inputs[0]
        elif node.kind == "mul" and len(node.inputs) == 2:
            branches = [source for source in node.inputs if source.kind == "linear" and _alone(source)]
            if not branches or branches[-1].record.output.shape[-1] != features:
                return None, None
            node = branches[-1]
        elif node.kind == "layout":
            plain, node = False, node.inputs[0]
        elif node.kind == "attention":
            return _value(node, features)
        else:
            return None, None


def _value(attention: OpNode, features: int) -> tuple[OpNode | None, Tensor | None]:
    """Return the layer of an attention's values, and which of its outputs each feature of the result mixes."""
    attrs = attention.record.attrs
    heads, kv, size = attrs["heads"], attrs.get("kv_heads", attrs["heads"]), attrs["head_size"]
    node = attention.inputs[2] if len(attention.inputs) > 2 else attention
    while node.kind == "layout" and _alone(node):
        node = node.inputs[0]
    if node.kind != "linear" or not _alone(node) or features != heads * size:
        return None, None
    if node.record.operands["weight"].shape[0] != kv * size or node.record.attrs.get("activation"):
        return None, None
    feature = torch.arange(features)
    return node, feature // size // (heads // kv) * size + feature % size


def head_size(graph: Graph, pair: Pair) -> int:
    """Return the size of the heads that a pair of values and outputs has; 0 for other pairs."""
    if pair.rows is None:
        return 0
    node = graph.node(pair.edge)
    while node.kind != "attention":
        node = node.inputs[0]
    return int(node.record.attrs["head_size"])


def scores(node: OpNode) -> bool:
    """Tell whether a layer gives the queries or the keys of an attention."""
    for user in node.users:
        if user.kind == "attention":
            return any(source.name == node.name for source in user.inputs[:2])
        if user.kind in ("layout", "rotary") and scores(user):
            return True
    return False
