"""Rotation of the stream that blocks read and add to, folded into all weights around it (docs/ptq/hadamard.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.graph import Graph, OpNode, Record
from mase.ops.base import OPS
from passes.ptq.hadamard import rotation


@dataclass(frozen=True, eq=False)
class Stream:
    """Hold what is around the residual stream of a model.

    Args:
        features: of it. writers: nodes whose results are added up. norms: that read it. readers: behind each norm.
    """

    features: int
    writers: tuple[OpNode, ...]
    norms: tuple[OpNode, ...]
    readers: tuple[tuple[OpNode, OpNode], ...]  # a norm, and a node that multiplies its result


def rotated(graph: Graph, seed: int = 0) -> Graph:
    """Return the graph with its residual stream turned by a random Hadamard matrix: float results stay as they are.

    Weights of norms move into the layers behind them and become 1. A tensor that is read as two things, such as that of
    embeddings tied to a head, becomes two.

    Raises:
        ConfigError: the stream is read or written in a way that does not turn; names the node.

    Source: S. Ashkboos et al., QuaRot, 2024; Z. Liu et al., SpinQuant, 2024, rotation R1.
    """
    stream = stream_of(graph)
    turn = rotation(stream.features, seed)
    changes = list(_changes(stream, turn))
    uses = Counter(node.record.key(role) for node in graph.nodes() for role in node.record.operands)
    turned = Counter(node.record.key(role) for node, role, _ in changes)
    new, records = dict[str, Tensor](), dict[str, Record]()
    for node, role, value in changes:
        record = records.get(node.name, node.record)
        key = record.key(role)
        own = turned[key] == uses[key] and (key not in new or torch.equal(new[key], value))
        if not own:  # others need what the tensor was, or became
            key = _free(node, role, {*graph.tensors, *new})
            records[node.name] = replace(record, table={**record.table, role: key})
        new[key] = value
    return graph.replace(records, new).verify()


def stream_of(graph: Graph) -> Stream:
    """Return the residual stream: the edge that the first norm reads, and all that is added to it.

    Raises:
        ConfigError: there is none, or something else than sums and norms without means reads it.
    """
    first = next((n for n in graph.operators() if n.kind in OPS and OPS[n.kind].turns(n.record)), None)
    if first is None:
        raise ConfigError("rotation: no norm turns with its input; allowed are models of norms without means or biases")
    edges, todo = dict[str, OpNode](), [first.inputs[0]]
    writers, norms = dict[str, OpNode](), dict[str, OpNode]()
    while todo:
        edge = todo.pop()
        if edge.name in edges:
            continue
        edges[edge.name] = edge
        if edge.kind in OPS and OPS[edge.kind].combines(edge):
            todo += edge.inputs
        elif edge.kind in OPS and OPS[edge.kind].writes(edge):
            writers[edge.name] = edge
        else:
            raise _odd(edge, "writes")
        for user in edge.users:
            if user.kind in OPS and OPS[user.kind].turns(user.record):
                norms[user.name] = user
            elif user.kind in OPS and OPS[user.kind].combines(user):
                todo.append(user)
            else:
                raise _odd(user, "reads")
    readers = [(norm, user) for norm in norms.values() for user in norm.users]
    for _, reader in readers:
        if reader.kind not in OPS or not OPS[reader.kind].multiplies(reader):
            raise _odd(reader, "reads a norm of")
    features = first.record.attrs["shape"][0]
    return Stream(features, tuple(writers.values()), tuple(norms.values()), tuple(readers))


def _changes(stream: Stream, turn: Tensor) -> Iterator[tuple[OpNode, str, Tensor]]:
    """Yield node, role and new value of every tensor around the stream."""
    for node in stream.writers:
        for role, axis in OPS[node.kind].writes(node).items():
            old = node.tensor(role).detach()
            yield node, role, (old.double().movedim(axis, -1) @ turn.T).movedim(-1, axis).to(old.dtype).contiguous()
    for norm, node in stream.readers:
        size = norm.tensor("weight").detach().double() + norm.record.attrs.get("offset", 0.0)
        for role in OPS[node.kind].multiplies(node):
            old = node.tensor(role).detach()
            yield node, role, (old.double() * size @ turn.T).to(old.dtype)
    for norm in stream.norms:
        old = norm.tensor("weight").detach()
        yield norm, "weight", torch.full_like(old, 1.0 - norm.record.attrs.get("offset", 0.0))


def _free(node: OpNode, role: str, taken: set[str]) -> str:
    """Return a key that no tensor has."""
    key = f"{node.path}.{role}"
    while key in taken:
        key += "_turned"
    return key


def _odd(node: OpNode, what: str) -> ConfigError:
    allowed = "layers, experts and embeddings that write, sums, and norms without means or biases before layers"
    return ConfigError(f"rotation: {node.where()}: {what} the residual stream; allowed are {allowed}")
