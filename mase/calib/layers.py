"""The layers of a graph that post-training quantization sees, and what the inputs of each were (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mase import interpreter
from mase.calib.statistics import Statistics
from mase.errors import ConfigError
from mase.graph import Graph, OpNode
from mase.ops.base import OPS

MATRIX = 2  # axes; a stack of experts has three


@dataclass(frozen=True)
class Place:
    """Say where a matrix of weights lies.

    Args:
        path: of the layer; that of the node, and for an expert its operand and number, such as ``mlp.down[3]``.
        node: name of the node. role: of the operand. key: in the table of tensors. expert: its number, or None.
        source: edge that the node takes.
    """

    path: str
    node: str
    role: str
    key: str
    source: str
    expert: int | None = None

    def weight(self, graph: Graph) -> Tensor:
        """Return the weights, float32 ``[outputs, inputs]``."""
        tensor = graph.tensors[self.key]
        return (tensor if self.expert is None else tensor[self.expert]).detach().float()


def places(graph: Graph) -> list[Place]:
    """Return the layers of a graph in order of execution: linear nodes, and the experts of fused weights.

    A matrix that several nodes share is there once.
    """
    found: dict[tuple[str, int | None], Place] = {}
    for node in graph.operators():
        record = node.record
        roles = OPS[node.kind].matrices(record) if node.kind in OPS else ()
        stacks = [role for role in roles if len(record.operands[role].shape) > MATRIX]
        experts = range(record.operands[stacks[0]].shape[0]) if stacks else ()
        whole = [(role, None, node.path) for role in roles if role not in stacks]
        parts = [(role, expert, f"{node.path}.{role}[{expert}]") for expert in experts for role in stacks]
        for role, expert, path in (*whole, *parts):
            key = record.key(role)
            found.setdefault((key, expert), Place(path, node.name, role, key, node.inputs[0].name, expert))
    return list(found.values())


def check_finite(graph: Graph, layers: Iterable[Place]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ConfigError: names the layer.
    """
    for place in layers:
        if not bool(torch.isfinite(place.weight(graph)).all()):
            raise ConfigError(f"layer {place.path}: weights hold NaN or infinity; finite values are needed")


def routers(graph: Graph) -> list[str]:
    """Return the keys of matrices that stand beside those that are layers, and choose among experts."""
    found = dict[str, None]()
    for node in graph.operators():
        record = node.record
        layers = OPS[node.kind].matrices(record) if node.kind in OPS else ()
        beside = [role for role, kind in record.operands.items() if role not in layers and len(kind.shape) == MATRIX]
        found |= dict.fromkeys(record.key(role) for role in beside if layers)
    return list(found)


def collect(
    graph: Graph, samples: Sequence[tuple[Tensor, ...]], layers: Sequence[Place], sums: tuple[str, ...]
) -> dict[Place, Statistics]:
    """Return what the inputs of layers are, in one pass over the samples.

    Layers that multiply the same values share one object. An expert sees the tokens that its router sends to it; one
    that gets none is calibrated on all tokens of its layer, as if they were sent to it, and has ``spread`` set.

    Args:
        samples: inputs of the graph. sums: that are wanted, of ``SUMS``.
    """
    seen = _Seen(graph, layers, sums)
    seen.run(samples)
    found = {place: seen.of(place) for place in layers}
    lonely = [place for place, sums_of in found.items() if place.expert is not None and sums_of.tokens == 0]
    if lonely and samples:
        spread = _Seen(graph, lonely, sums, routed=False)
        spread.run(samples)
        for place in lonely:
            found[place] = spread.of(place)
            found[place].spread = True
    return found


@dataclass
class _Seen:
    """Take in what layers multiply while samples run."""

    graph: Graph
    layers: Sequence[Place]
    sums: tuple[str, ...]
    routed: bool = True
    found: dict[str, Statistics] = field(default_factory=dict)  # by edge, or by path where a node changes the values
    owner: dict[Place, str] = field(default_factory=dict)

    def of(self, place: Place) -> Statistics:
        """Return what a layer has seen."""
        return self.found.get(self.owner.get(place, ""), Statistics())

    def run(self, samples: Sequence[tuple[Tensor, ...]]) -> None:
        """Run all samples."""
        mine = {(place.node, place.role, place.expert): place for place in self.layers}
        readers: dict[str, dict[str, OpNode]] = {}
        for place in self.layers:
            node = self.graph.node(place.node)
            readers.setdefault(node.inputs[0].name, {})[place.node] = node

        def observe(node: OpNode, x: Tensor) -> None:
            done: set[str] = set()
            x = x.float() if node.record.output.format is not None else x  # as layers read it
            for reader in readers.get(node.name, {}).values():
                self._take(reader, x, mine, done)

        for sample in samples:
            interpreter.run(self.graph, sample, observe=observe)

    def _take(
        self, reader: OpNode, x: Tensor, mine: Mapping[tuple[str, str, int | None], Place], done: set[str]
    ) -> None:
        """Take in what one node multiplies, each tensor once."""
        for role, expert, tokens in OPS[reader.kind].feeds(reader, x, self.routed):
            place = mine.get((reader.name, role, expert))
            if place is None or tokens.numel() == 0:
                continue
            key = self.owner.setdefault(place, reader.inputs[0].name if tokens is x else place.path)
            if key not in done:
                done.add(key)
                self.found.setdefault(key, Statistics()).add(tokens, self.sums)
