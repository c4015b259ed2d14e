"""Score design points: formats of every tensor -> accuracy of the exact integers, cost and bits.

A point becomes the graph that the quantize pass would give, and ``mase.lowering`` builds its operators: what is scored
is what is built. Nothing is computed twice: fitted formats are kept by (tensor, format), operators and the codes of
edges by all that lies before them, prices of foldings by operator.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from mase.calib.fit import fit
from mase.cost.folding import ByHand, fold
from mase.errors import UnsupportedOp
from mase.explore.space import Axis, Space
from mase.formats import Code, Format, QuantParams
from mase.graph import Graph, OpNode, Record, new_type
from mase.lowering import Key, Lowered, Lowering
from mase.metrics.accuracy import accuracy
from mase.netlist import host_prefix
from mase.ops.base import OPS, HardwareOp, moves

INPUT = "input"
REFUSED = {"accuracy": 0.0, "cost": 1e12, "bits": 1e12, "interval": 1e12, "legal": 0.0}
KEPT = 1 << 26  # bytes of layer outputs kept; the least recently used one goes first
Fitted = tuple[Format, QuantParams]


@dataclass(frozen=True)
class Target:
    """What a design is built for.

    Args:
        device: whose costs count. interval: cycles a sample to keep; None means as cheap as possible.
        folding: input and output lanes that are fixed by hand, by glob of module paths; the first match wins.
    """

    device: str
    interval: int | None
    folding: ByHand = field(default_factory=dict)


class Scorer:
    """Map a point of :func:`space` to its metrics.

    Metrics: ``accuracy`` (of the integers, on the samples), ``cost`` (LUT-equivalents at the cheapest folding that
    keeps the interval), ``bits`` (stored bits of all weights), ``interval`` (cycles a sample), ``legal`` (0 where no
    exact hardware exists; then accuracy is 0 and the others are 1e12).

    Args:
        graph: float graph, a chain of operators. inputs, labels: what is scored. samples: float values of every edge
            on calibration data, by edge name. target: what it is built for.
    """

    def __init__(
        self, graph: Graph, inputs: Tensor, labels: Tensor, samples: Mapping[str, Tensor], target: Target
    ) -> None:
        self.graph, self.labels, self.samples, self.target = graph, labels, samples, target
        prefix = host_prefix(graph)
        self.entry = graph.node(prefix[-1])
        self.chain = [node for node in graph.operators() if node.name not in prefix]
        self.inputs = inputs.reshape(inputs.shape[0], *self.entry.record.output.shape[1:])
        self._lowering = Lowering()
        self._fits: dict[tuple[str, str], Fitted] = {}
        self._records: dict[tuple[str, ...], Record] = {}
        self._codes: OrderedDict[Key, Code] = OrderedDict()
        self._kept = 0  # bytes
        self._scores: dict[Key, float] = {}

    def __call__(self, point: Mapping[str, object]) -> dict[str, float]:
        """Return the metrics of a point."""
        try:
            return self._score(point)
        except UnsupportedOp:
            return dict(REFUSED)

    def config(self, point: Mapping[str, object]) -> tuple[str, dict[str, dict[str, str]]]:
        """Return the input's format and, by path, the formats of each node: what the quantize pass takes."""
        formats: dict[str, dict[str, str]] = {}
        for node in self.chain:
            if not moves(node):
                formats[node.path] = {"output": str(point[f"{node.path}.activation"])}
                if node.record.operands:
                    formats[node.path]["weight"] = str(point[f"{node.path}.weight"])
        return str(point[f"{INPUT}.activation"]), formats

    def lowered(self, point: Mapping[str, object]) -> Lowered:
        """Return the operators of a point: of the whole graph with these formats, as the quantize pass gives them."""
        text = str(point[f"{INPUT}.activation"])
        fmt, params = self._fit(self.entry, text)
        records, quant = {self.entry.name: self._record(self.entry, text, fmt)}, {self.entry.name: params}
        for node in self.chain:
            if not moves(node):
                text = str(point[f"{node.path}.activation"])
                fmt, params = self._fit(node, text)
            quant[node.name] = params
            weight = str(point[f"{node.path}.weight"]) if node.record.operands else ""
            if weight:
                quant[node.record.key("weight")] = self._fit(node, weight, "weight")[1]
            records[node.name] = self._record(node, text, fmt, weight)
        return self._lowering.of(self.graph.overlaid(records, quant))

    def _score(self, point: Mapping[str, object]) -> dict[str, float]:
        lowered = self.lowered(point)
        ops = [lowered.op(node) for node in self.chain]
        folded = fold(self.chain, ops, self.target.device, self.target.interval, self.target.folding)
        key = lowered.key(self.chain[-1])
        score = self._scores.get(key)
        if score is None:
            score = self._scores[key] = self._accuracy(lowered, ops)
        interval = float(folded.interval)
        return {"accuracy": score, "cost": folded.cost, "bits": self._bits(point), "interval": interval, "legal": 1.0}

    def _bits(self, point: Mapping[str, object]) -> float:
        bits = 0.0
        for node in self.chain:
            if node.record.operands:
                fmt, params = self._fit(node, str(point[f"{node.path}.weight"]), "weight")
                shape = node.tensor("weight").shape
                bits += fmt.bits(shape, params.axis) * math.prod(shape)
        return bits

    def _accuracy(self, lowered: Lowered, ops: Sequence[HardwareOp]) -> float:
        """Run from the last edge whose codes are kept."""
        edges = [self.entry, *self.chain]
        keys = [lowered.key(node) for node in edges]
        start = next((i for i in range(len(keys) - 1, -1, -1) if keys[i] in self._codes), 0)
        first, last = (OpNode(lowered.graph, edges[i].node) for i in (0, -1))
        if keys[start] not in self._codes:
            self._keep(keys[0], _format(first).encode(self.inputs, first.params()))
        code = self._codes[keys[start]]
        self._codes.move_to_end(keys[start])
        for key, op in zip(keys[start + 1 :], ops[start:], strict=True):
            code = op.reference(code)
            self._keep(key, code)
        return accuracy(_format(last).decode(code, last.params()), self.labels)

    def _keep(self, key: Key, code: Code) -> None:
        self._codes[key] = code
        self._kept += _bytes(code)
        while self._kept > KEPT and len(self._codes) > 1:
            self._kept -= _bytes(self._codes.popitem(last=False)[1])

    def _fit(self, node: OpNode, text: str, role: str = "") -> Fitted:
        key = node.record.key(role) if role else node.name
        if (key, text) not in self._fits:
            data = node.tensor(role) if role else self.samples.get(node.name)
            axes = OPS[node.kind].axes(node.record, role) if role else None
            self._fits[key, text] = fit(text, data, key, axes)
        return self._fits[key, text]

    def _record(self, node: OpNode, text: str, fmt: Format, weight: str = "") -> Record:
        """Return the record of a node with these formats, the same object every time."""
        key = (node.name, text, weight)
        if key not in self._records:
            record = replace(node.record, output=new_type(node.record.output, fmt))
            if node.kind != "input" and not moves(node):
                record = replace(record, attrs={**record.attrs, "rounding": "even"})
            if weight:
                kind = new_type(record.operands["weight"], self._fit(node, weight, "weight")[0])
                attrs = {**record.attrs, "accumulation": "auto"}
                record = replace(record, operands={**record.operands, "weight": kind}, attrs=attrs)
            self._records[key] = record
        return self._records[key]


def _format(node: OpNode) -> Format:
    fmt = node.record.output.format
    assert fmt is not None
    return fmt


def _bytes(code: Code) -> int:
    return code.mantissa.nbytes + (0 if code.exponent is None else code.exponent.nbytes)


def space(graph: Graph, weight: tuple[str, ...], activation: tuple[str, ...], tie: bool = False) -> Space:
    """Return the axes of a graph: ``input.activation``, and ``<path>.weight`` and ``<path>.activation`` of each layer.

    Args:
        tie: one value for all weights, one for all activations.
    """
    prefix = host_prefix(graph)
    axes = [Axis(f"{INPUT}.activation", activation)]
    for node in graph.operators():
        if node.name in prefix or moves(node):
            continue
        if node.record.operands:
            axes.append(Axis(f"{node.path}.weight", weight))
        axes.append(Axis(f"{node.path}.activation", activation))
    ties: tuple[tuple[str, ...], ...] = ()
    if tie:
        groups = [tuple(a.name for a in axes if a.name.endswith(end)) for end in (".weight", ".activation")]
        ties = tuple(group for group in groups if len(group) > 1)
    return Space(tuple(axes), ties)
