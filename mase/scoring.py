"""Score design points: formats of every tensor -> accuracy (or SNR) of the exact integers, cost and bits.

A point becomes the graph that the quantize pass would give, and ``mase.lowering`` builds its operators: what is scored
is what is built. Nothing is computed twice: fitted formats are kept by (tensor, format), operators and the codes of
edges by all that lies before them, prices of foldings by operator.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mase.calib.adapt import adapter, inserted
from mase.calib.assign import Assignment, Chosen, arithmetic, follows, rounds, weights
from mase.cost.folding import ByHand, Wiring, fold
from mase.errors import UnsupportedOp
from mase.explore.space import Axis, Space
from mase.formats import Code, Format
from mase.graph import Graph, OpNode
from mase.interpreter import Batch, unpacked
from mase.lowering import Key, Lowered, Lowering
from mase.metrics.scores import ACCURACY, Metric
from mase.netlist import encoded, region

INPUT = "input"
REFUSED = {"cost": 1e12, "bits": 1e12, "interval": 1e12, "legal": 0.0}  # and a score of 0
KEPT = 1 << 26  # bytes of layer outputs kept; the least recently used one goes first
WORTH = 1 << 16  # elements of codes from which a narrower copy is kept


@dataclass(frozen=True)
class Target:
    """What a design is built for.

    Args:
        device: whose costs count. interval: cycles a sample to keep; None means as cheap as possible.
        folding: fixed by hand, by glob of module paths; the first match wins.
    """

    device: str
    interval: int | None
    folding: ByHand = field(default_factory=dict)


class Scorer:
    """Map a point of :func:`space` to its metrics.

    Metrics: the score by its name, such as ``accuracy`` (of the integers, on the samples), ``cost`` (LUT-equivalents at
    the cheapest folding that keeps the interval), ``bits`` (stored bits of all weights), ``interval`` (cycles a
    sample), ``legal`` (0 where no exact hardware exists; then the score is 0 and the others are 1e12).

    Args:
        graph: float graph of operators, whose first output is scored. inputs, labels: of the samples. samples: float
            values of every edge on calibration data, by edge name. target: what it is built for. metric: the score.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Batch,
        labels: Tensor,
        samples: Mapping[str, Tensor],
        target: Target,
        metric: Metric = ACCURACY,
    ) -> None:
        graph = inserted(graph)
        self.graph, self.labels, self.target, self.metric = graph, labels, target, metric
        self.entries, self.exit = encoded(graph), graph.output.inputs[0]
        self.nodes = region(graph)
        self.inputs = {
            entry.name: x.reshape(x.shape[0], *entry.record.output.shape[1:])
            for entry, x in zip(self.entries, unpacked(graph, inputs), strict=True)
        }
        self._sources = {node.name: tuple(source.name for source in node.inputs) for node in self.nodes}
        self._wiring = Wiring.of(self.nodes)
        self._assignment = Assignment(graph, samples)
        self._choosing = [
            (node, tuple(role for role in weights(node) if role != "bias"), tuple(arithmetic(node).items()))
            for node in self.nodes
            if not follows(node) and not adapter(node)
        ]
        self._rounds = {node.name: rounds(node) for node in self.nodes}
        self._lowering = Lowering()
        self._codes: OrderedDict[Key, Code] = OrderedDict()
        self._kept = 0  # bytes
        self._scores: dict[Key, float] = {}

    def __call__(self, point: Mapping[str, object]) -> dict[str, float]:
        """Return the metrics of a point."""
        try:
            return self._score(point)
        except UnsupportedOp:
            return self.refused

    @property
    def refused(self) -> dict[str, float]:
        """Metrics of a point that no hardware computes."""
        return {self.metric.name: 0.0, **REFUSED}

    def config(self, point: Mapping[str, object]) -> tuple[str, dict[str, dict[str, str]]]:
        """Return the input's format and, by path, the formats of each node: what the quantize pass takes."""
        formats: dict[str, dict[str, str]] = {}
        for node, roles, _ in self._choosing:
            formats[node.path] = {"output": str(point[f"{node.path}.activation"])} if self._rounds[node.name] else {}
            if roles:
                formats[node.path]["weight"] = str(point[f"{node.path}.weight"])
        return str(point[f"{INPUT}.activation"]), formats

    def lowered(self, point: Mapping[str, object]) -> Lowered:
        """Return the operators of a point: of the whole graph with these formats, as the quantize pass gives them."""
        chosen = {entry.name: Chosen(str(point[f"{INPUT}.activation"])) for entry in self.entries}
        for node, roles, attrs in self._choosing:
            weight = str(point[f"{node.path}.weight"]) if roles else ""
            operands = tuple((role, weight) for role in roles)
            output = str(point[f"{node.path}.activation"]) if self._rounds[node.name] else None
            chosen[node.name] = Chosen(output, operands, attrs)
        return self._lowering.of(self.graph.overlaid(*self._assignment.of(chosen)))

    def _score(self, point: Mapping[str, object]) -> dict[str, float]:
        lowered = self.lowered(point)
        ops = [lowered.op(node) for node in self.nodes]
        target = self.target
        folded = fold(self.nodes, ops, target.device, target.interval, target.folding, self._wiring)
        key = lowered.key(self.exit)
        score = self._scores.get(key)
        if score is None:
            score = self._scores[key] = self._measured(lowered)
        interval = float(folded.interval)
        found = {"cost": folded.cost, "bits": self._bits(point), "interval": interval, "legal": 1.0}
        return {self.metric.name: score, **found}

    def _bits(self, point: Mapping[str, object]) -> float:
        """Return the stored bits of all weights; one that several nodes share counts once."""
        bits: dict[str, float] = {}
        for node, roles, _ in self._choosing:
            for role in roles:
                fmt, params = self._assignment.weight(node, role, str(point[f"{node.path}.weight"]))
                shape = node.record.operands[role].shape
                bits[node.record.key(role)] = fmt.bits(shape, params.axis) * math.prod(shape)
        return sum(bits.values())

    def _measured(self, lowered: Lowered) -> float:
        """Compute the codes of the exit from the edges whose codes are kept."""
        keys = {node.name: lowered.key(node) for node in (*self.entries, *self.nodes)}
        codes, needed = self._known(keys)
        uses = Counter(source for name in needed for source in self._sources.get(name, ()))
        for entry in self.entries:
            if entry.name in needed:
                first = OpNode(lowered.graph, entry.node)
                found = _format(first).encode(self.inputs[entry.name], first.params()).on_stream()
                codes[first.name] = self._keep(keys[first.name], found)
        for node in self.nodes:
            if node.name in needed:
                sources = self._sources[node.name]
                found = lowered.op(node).reference(*(codes[source] for source in sources))
                codes[node.name] = self._keep(keys[node.name], found)
                uses.subtract(sources)
                for source in {*sources}:
                    if not uses[source] and source != self.exit.name:
                        del codes[source]
        last = OpNode(lowered.graph, self.exit.node)
        return self.metric.of(_format(last).decode(codes[last.name], last.params()), self.labels)

    def _known(self, keys: Mapping[str, Key]) -> tuple[dict[str, Code], set[str]]:
        """Return kept codes by edge, and the edges that must be computed between them and the exit."""
        codes: dict[str, Code] = {}
        needed, pending = set[str](), [self.exit.name]
        while pending:
            name = pending.pop()
            if name in needed or name in codes:
                continue
            if keys[name] in self._codes:
                self._codes.move_to_end(keys[name])
                codes[name] = _wide(self._codes[keys[name]])
            else:
                needed.add(name)
                pending += self._sources.get(name, ())
        return codes, needed

    def _keep(self, key: Key, code: Code) -> Code:
        self._codes[key] = small = _narrow(code)
        self._kept += _bytes(small)
        while self._kept > KEPT and len(self._codes) > 1:
            self._kept -= _bytes(self._codes.popitem(last=False)[1])
        return code


def _format(node: OpNode) -> Format:
    fmt = node.record.output.format
    assert fmt is not None
    return fmt


def _bytes(code: Code) -> int:
    return code.mantissa.nbytes + (0 if code.exponent is None else code.exponent.nbytes)


def _narrow(code: Code) -> Code:
    """Return codes in the narrowest integers that hold them, where that saves much."""
    x = code.mantissa
    if x.numel() < WORTH or x.dtype != torch.int64:
        return code
    low, high = (int(bound) for bound in x.aminmax())
    holding = (
        d for d in (torch.int8, torch.int16, torch.int32) if torch.iinfo(d).min <= low <= high <= torch.iinfo(d).max
    )
    return replace(code, mantissa=x.to(next(holding, x.dtype)))


def _wide(code: Code) -> Code:
    return replace(code, mantissa=code.mantissa.long()) if code.mantissa.dtype != torch.int64 else code


def space(graph: Graph, weight: tuple[str, ...], activation: tuple[str, ...], tie: bool = False) -> Space:
    """Return the axes of a graph: ``input.activation``, and ``<path>.weight`` and ``<path>.activation`` of each layer.

    Args:
        tie: one value for all weights, one for all activations.
    """
    axes = {f"{INPUT}.activation": activation}  # calls of one module share their formats
    for node in region(graph):
        if not follows(node):
            axes |= {f"{node.path}.weight": weight} if set(weights(node)) - {"bias"} else {}
            axes |= {f"{node.path}.activation": activation} if rounds(node) else {}
    ties: tuple[tuple[str, ...], ...] = ()
    if tie:
        groups = [tuple(name for name in axes if name.endswith(end)) for end in (".weight", ".activation")]
        ties = tuple(group for group in groups if len(group) > 1)
    return Space(tuple(Axis(name, values) for name, values in axes.items()), ties)
