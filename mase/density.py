"""Score formats of a model that no hardware is built for: how well it reads a text, against what it stores.

Formats are given to what is multiplied: the weights and the inputs of each node that multiplies (layers, tables,
experts, attention). A point becomes the graph that the quantize pass would give, and that graph reads the text: what is
scored is what is kept.

Source: C. Zhang et al., Revisiting Block-based Quantisation, EMNLP 2023, for the search and its memory density.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mase.calib.adapt import adapter, inserted
from mase.calib.assign import Assignment, Chosen, arithmetic, follows, rounds, weights
from mase.calib.fit import fit
from mase.data.base import Split
from mase.errors import ConfigError, UnsupportedOp
from mase.explore.choice import Tables
from mase.explore.space import Axis, Space
from mase.formats import QuantParams
from mase.graph import Graph, OpNode, Record, new_type
from mase.interpreter import run, train
from mase.lowering import Lowering
from mase.metrics.scores import Reading
from mase.ops.base import OPS

FLOAT = 32  # bits of a value without a format
WORST = 1e12  # score of a point whose formats no integers compute, and of a text that is read as badly as can be
PROBED, ROWS = 16, 8  # samples that tables are measured on, and how many at a time
Bits = tuple[float, int]  # stored in all, and of how many values


class DensityScorer:
    """Map a point of :func:`space` to its metrics.

    Metrics: the score by its name, such as ``perplexity``; ``bits``, the mean stored bits of a value, over all weights
    and over what is multiplied for one sample; ``density``, 32 over that; ``weight_bits`` and ``activation_bits``, the
    means of each alone. What has no format counts 32 bits.

    Args:
        graph: float graph of operators, whose first output is scored. split: that is read. samples: float values of
            the edges that get a format, on calibration data. metric: the score, of which less is better.
    """

    def __init__(self, graph: Graph, split: Split, samples: Mapping[str, Tensor], metric: Reading) -> None:
        self.graph, self.split, self.metric = inserted(graph), split, metric
        self._assignment = Assignment(self.graph, samples)
        nodes = [node for node in self.graph.operators() if not follows(node) and not adapter(node)]
        given = {node.name for node in producers(self.graph)}
        self._nodes = [(n, searched(n), n.name in given, tuple(arithmetic(n).items())) for n in nodes]
        self._rounded: dict[tuple[str, str], Tensor] = {}
        self._predicted: list[Tensor] | None = None

    def __call__(self, point: Mapping[str, object]) -> dict[str, float]:
        """Return the metrics of a point."""
        weight, activation = self.weight_bits(point), self.activation_bits(point)
        total = (weight[0] + activation[0]) / (weight[1] + activation[1])
        found = {"bits": total, "density": FLOAT / total}
        found |= {"weight_bits": weight[0] / weight[1], "activation_bits": activation[0] / max(1, activation[1])}
        return {self.metric.name: self._read(point), **found}

    def config(self, point: Mapping[str, object]) -> tuple[None, dict[str, dict[str, str]]]:
        """Return the formats of each node by path: what the quantize pass takes. Inputs are ids, which have none."""
        formats: dict[str, dict[str, str]] = {}
        for node, roles, given, _ in self._nodes:
            found = {"weight": str(point[f"{node.path}.weight"])} if roles else {}
            found |= {"output": str(point[f"{node.path}.activation"])} if given else {}
            if found:
                formats[node.path] = found
        return None, formats

    def quantized(self, point: Mapping[str, object]) -> Graph:
        """Return the graph of a point, as the quantize pass gives it."""
        return self.graph.overlaid(*self._assignment.of(self._chosen(point)))

    def weight_bits(self, point: Mapping[str, object]) -> Bits:
        """Return what all weights store, and how many they are; one that several nodes share counts once."""
        bits = {
            node.record.key(role): (float(FLOAT * math.prod(kind.shape)), math.prod(kind.shape))
            for node, *_ in self._nodes
            if not OPS[node.kind].constant
            for role, kind in node.record.operands.items()
        }
        for node, roles, *_ in self._nodes:
            for role in roles:
                fmt, params = self._assignment.weight(node, role, str(point[f"{node.path}.weight"]))
                shape = node.record.operands[role].shape
                bits[node.record.key(role)] = fmt.bits(shape, params.axis) * math.prod(shape), math.prod(shape)
        return sum(total for total, _ in bits.values()), sum(count for _, count in bits.values())

    def activation_bits(self, point: Mapping[str, object]) -> Bits:
        """Return what is stored of what is multiplied for one sample, and how many values that is."""
        total, count = 0.0, 0
        for node, _, given, _ in self._nodes:
            if given:
                fmt, params = self._assignment.edge(node, str(point[f"{node.path}.activation"]))
                shape = node.record.output.shape
                total += fmt.bits(shape, params.axis) * math.prod(shape[1:])
                count += math.prod(shape[1:])
        return total, count

    def check_bits(self, axes: Space, most: float) -> None:
        """Refuse a budget of bits that no design meets.

        Raises:
            ConfigError: says what the least is.
        """
        least = axes.from_digits([min(range(len(row)), key=row.__getitem__) for row in self._costs(axes).values()])
        weight, activation = self.weight_bits(least), self.activation_bits(least)
        found = (weight[0] + activation[0]) / (weight[1] + activation[1])
        if found > most:
            raise ConfigError(f"search.bits {most:g}: no design has so few; the least is {found:.3f}")

    def tables(self, axes: Space, most: float | None = None) -> Tables:
        """Return what each value of each axis alone does: to the predictions, and to the bits that are stored.

        The damage is the mean divergence of the float model's predictions from those of a model in which this one
        tensor is rounded: on few samples it is far less noisy than a change of the perplexity.

        Args:
            most: budget, as a mean of bits.
        """
        damage = {axis.name: tuple(self._divergence(axis.name, str(v)) for v in axis.values) for axis in axes.free}
        first = axes.from_digits([0] * len(axes.free))
        weight, activation = self.weight_bits(first), self.activation_bits(first)
        caps = {} if most is None else {"bits": most * (weight[1] + activation[1]) - weight[0] - activation[0]}
        return Tables(damage, {"bits": self._costs(axes)}, caps=caps)

    def _costs(self, axes: Space) -> dict[str, tuple[float, ...]]:
        """Return by how many bits each value of each free axis differs from the first one."""
        first = dict(axes.from_digits([0] * len(axes.free)))

        def stored(name: str, value: object) -> float:
            leaders = zip(axes.names, axes.columns, strict=True)
            moved = {**first, **{other: value for other, column in leaders if axes.free[column].name == name}}
            return self.weight_bits(moved)[0] + self.activation_bits(moved)[0]

        costs = {axis.name: [stored(axis.name, v) for v in axis.values] for axis in axes.free}
        return {name: tuple(cost - row[0] for cost in row) for name, row in costs.items()}

    def _divergence(self, name: str, text: str) -> float:
        """Return what rounding the tensors of one axis does to the predictions, in nats a token."""
        path, _, kind = name.rpartition(".")
        chosen = dict[str, Chosen]()
        shared = {n.record.key(role) for n, roles, *_ in self._nodes if n.path == path for role in roles}
        for node, roles, given, attrs in self._nodes:
            if kind == "activation" and node.path == path and given:
                chosen[node.name] = Chosen(text, (), attrs)
            if kind == "weight" and any(node.record.key(role) in shared for role in roles):
                chosen[node.name] = Chosen(None, tuple((role, text) for role in roles), attrs)
        graph, few = self.graph.overlaid(*self._assignment.of(chosen)), self.split.x[:PROBED]
        if self._predicted is None:
            self._predicted = [_predictions(self.graph, x) for x in few.split(ROWS)]
        total = 0.0
        for x, wanted in zip(few.split(ROWS), self._predicted, strict=True):
            lost = wanted.exp() * (wanted - _predictions(graph, x))
            total += float(lost.sum(dtype=torch.float64))
        return total / few.numel()

    def _chosen(self, point: Mapping[str, object]) -> dict[str, Chosen]:
        chosen = {}
        for node, roles, given, attrs in self._nodes:
            operands = tuple((role, str(point[f"{node.path}.weight"])) for role in roles)
            chosen[node.name] = Chosen(str(point[f"{node.path}.activation"]) if given else None, operands, attrs)
        return chosen

    def _read(self, point: Mapping[str, object]) -> float:
        graph, lowering = self._rounded_once(self.quantized(point)), Lowering()
        last = graph.output.inputs[0].name

        def read(*inputs: Tensor) -> Tensor:
            return run(graph, inputs, lowering=lowering).real(last)

        try:
            found = self.metric.score(read, self.split)
        except UnsupportedOp:
            return WORST
        return found if found < WORST else WORST

    def _rounded_once(self, graph: Graph) -> Graph:
        """Return a graph that computes the same: weights that act as real numbers are rounded here, not in each run."""
        records, tensors = dict[str, Record](), dict[str, Tensor]()
        for node, roles, given, _ in self._nodes:
            if not roles or given:
                continue  # it may run on integers
            record = OpNode(graph, node.node).record
            for role in roles:
                fmt, key = record.operands[role].format, record.key(role)
                assert fmt is not None
                place = (key, str(fmt))
                if place not in self._rounded:
                    self._rounded[place] = fmt.quantize(graph.tensors[key], graph.params(key))
                tensors[key] = self._rounded[place]
            bare = {role: new_type(record.operands[role], None) for role in roles}
            records[node.name] = replace(record, operands={**record.operands, **bare})
        return graph.overlaid(records).on({**graph.tensors, **tensors})


def _predictions(graph: Graph, ids: Tensor) -> Tensor:
    """Return log-probabilities of the next tokens, formats acting through float arithmetic: nearly as exact, faster."""
    with torch.no_grad():
        return train(graph, (ids,)).float().log_softmax(-1)


def multiplies(node: OpNode) -> bool:
    """Tell whether a node multiplies what comes with weights, or two things that come."""
    return node.kind in OPS and OPS[node.kind].family == "compute"


def searched(node: OpNode) -> tuple[str, ...]:
    """Return the weights of a node that get a format: matrices, no biases."""
    return tuple(role for role in weights(node) if role != "bias") if multiplies(node) else ()


def producers(graph: Graph) -> list[OpNode]:
    """Return the nodes whose results are multiplied, perhaps after elements have moved, in order of execution."""
    found: dict[str, OpNode] = {}
    for node in graph.operators():
        for source in node.inputs if multiplies(node) else ():
            while source.kind != "input" and (follows(source) or adapter(source)):
                (source,) = source.inputs
            if source.kind != "input" and rounds(source):
                found[source.name] = source
    return [node for node in graph.operators() if node.name in found]


def check_activation(text: str, where: str = "search.activation") -> None:
    """Refuse a format whose parameters belong to the rows that it was calibrated on, and so fit no others.

    Raises:
        ConfigError: names it, and what is allowed.
    """
    found = [[x.shape for x in _tensors(fit(text, torch.ones(rows, 2, 4), where)[1])] for rows in (1, 3)]
    if found[0] != found[1]:
        raise ConfigError(
            f"{where} {text}: stores a scale for each group of each row, which other rows do not have; allowed are "
            "formats with one scale, as int8, or that find theirs in the data, as mxint4b16"
        )


def _tensors(params: QuantParams) -> list[Tensor]:
    return [x for x in vars(params).values() if isinstance(x, Tensor)]


def space(graph: Graph, weight: tuple[str, ...], activation: tuple[str, ...], tie: bool = False) -> Space:
    """Return the axes of a graph: ``<path>.weight`` of each node with weights, ``<path>.activation`` of each producer.

    Weights that are one tensor have one format.

    Args:
        tie: one value for all weights, one for all activations.

    Raises:
        ConfigError: a format of activations stores a scale for each row of what it was calibrated on.
    """
    for text in activation:
        check_activation(text)
    axes, shared = dict[str, tuple[str, ...]](), dict[str, dict[str, None]]()
    given = {node.name for node in producers(graph)}
    for node in graph.operators():
        if roles := searched(node):
            axes[f"{node.path}.weight"] = weight
            for role in roles:
                shared.setdefault(node.record.key(role), {})[f"{node.path}.weight"] = None
        if node.name in given:
            axes[f"{node.path}.activation"] = activation
    groups = [tuple(names) for names in shared.values()]
    if tie:
        groups = [tuple(name for name in axes if name.endswith(end)) for end in (".weight", ".activation")]
    ties = tuple(group for group in groups if len(group) > 1)
    return Space(tuple(Axis(name, values) for name, values in axes.items()), ties)
