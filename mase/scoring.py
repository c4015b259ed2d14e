"""Score design points: formats of every tensor -> accuracy of the exact integers, cost and bits.

Nothing is computed twice: fitted formats are kept by (tensor, format), operators by their formats, layer outputs by all
formats before them, foldings by operator.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from mase.calib.fit import fit, weight_axis
from mase.cost.folding import Choice, cheapest
from mase.errors import UnsupportedOp
from mase.explore.space import Axis, Space
from mase.formats import Code, Format, QuantParams
from mase.graph import Graph, OpNode, Record, TensorType, new_type
from mase.metrics.accuracy import accuracy
from mase.netlist import host_prefix
from mase.ops.base import OPS, HardwareOp

INPUT = "input"
REFUSED = {"accuracy": 0.0, "cost": 1e12, "bits": 1e12, "interval": 1e12, "legal": 0.0}
KEPT = 1 << 26  # bytes of layer outputs kept; the least recently used one goes first
Fitted = tuple[Format, QuantParams]


@dataclass(frozen=True)
class Target:
    """What a design is built for: device, and cycles a sample to keep (None: as cheap as possible)."""

    device: str
    interval: int | None


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
        nodes = [node for node in graph.operators() if node.name not in prefix]
        self.chain = [(node, node.record, node.inputs[0].name, OPS[node.kind]) for node in nodes]
        self.inputs = inputs.reshape(inputs.shape[0], *self.entry.record.output.shape[1:])
        self._fits: dict[tuple[str, str], Fitted] = {}
        self._ops: dict[tuple[str, ...], HardwareOp] = {}
        self._choices: dict[tuple[str, ...], Choice] = {}
        self._codes: OrderedDict[tuple[str, ...], Code] = OrderedDict()
        self._kept = 0  # bytes
        self._scores: dict[tuple[str, ...], float] = {}

    def __call__(self, point: Mapping[str, object]) -> dict[str, float]:
        """Return the metrics of a point."""
        try:
            return self._score(point)
        except UnsupportedOp:
            return dict(REFUSED)

    def config(self, point: Mapping[str, object]) -> tuple[str, dict[str, dict[str, str]]]:
        """Return the input's format and, by path, the formats of each node: what the quantize pass takes."""
        formats: dict[str, dict[str, str]] = {}
        for node, record, _, _ in self.chain:
            if node.kind != "layout":
                formats[node.path] = {"output": str(point[f"{node.path}.activation"])}
                if record.operands:
                    formats[node.path]["weight"] = str(point[f"{node.path}.weight"])
        return str(point[f"{INPUT}.activation"]), formats

    def _score(self, point: Mapping[str, object]) -> dict[str, float]:
        text = str(point[f"{INPUT}.activation"])
        before = self._fit(self.entry.name, text, self.samples.get(self.entry.name))
        prefix: tuple[str, ...] = (text,)
        if prefix not in self._codes:
            self._keep(prefix, before[0].encode(self.inputs, before[1]))
        steps: list[tuple[tuple[str, ...], HardwareOp]] = []
        cost = bits = 0.0
        interval = 0
        for node, record, source, op in self.chain:
            weight = str(point[f"{node.path}.weight"]) if record.operands else ""
            output = str(point[f"{node.path}.activation"]) if node.kind != "layout" else prefix[-1]
            key = (node.name, prefix[-1], weight, output)
            after = before if node.kind == "layout" else self._fit(node.name, output, self.samples.get(node.name))
            if key not in self._ops:
                self._ops[key] = self._build(node, record, source, op, before, weight, after)
            prefix += (weight, output) if weight else (output,)
            steps.append((prefix, self._ops[key]))
            choice = self._choose(key)
            cost, interval = cost + choice.cost, max(interval, choice.cycles)
            if weight:
                fmt = self._fit(record.key("weight"), weight, None)[0]
                shape = record.operands["weight"].shape
                bits += fmt.bits(shape, weight_axis(fmt)) * shape[0] * shape[1]
            before = after
        score = self._scores.get(prefix)
        if score is None:
            score = self._scores[prefix] = self._accuracy(steps, before)
        return {"accuracy": score, "cost": cost, "bits": bits, "interval": float(interval), "legal": 1.0}

    def _accuracy(self, steps: list[tuple[tuple[str, ...], HardwareOp]], last: Fitted) -> float:
        """Run from the longest prefix whose codes are kept."""
        start = next((i for i in range(len(steps) - 1, -1, -1) if steps[i][0] in self._codes), -1)
        key = steps[start][0] if start >= 0 else steps[0][0][:1]
        code = self._codes[key]
        self._codes.move_to_end(key)
        for prefix, op in steps[start + 1 :]:
            code = op.reference(code)
            self._keep(prefix, code)
        return accuracy(last[0].decode(code, last[1]), self.labels)

    def _keep(self, prefix: tuple[str, ...], code: Code) -> None:
        self._codes[prefix] = code
        self._kept += _bytes(code)
        while self._kept > KEPT and len(self._codes) > 1:
            self._kept -= _bytes(self._codes.popitem(last=False)[1])

    def _fit(self, key: str, text: str, x: Tensor | None) -> Fitted:
        if (key, text) not in self._fits:
            data = self.graph.tensors[key] if x is None else x
            self._fits[key, text] = fit(text, data, key, weight=x is None)
        return self._fits[key, text]

    def _build(
        self, node: OpNode, record: Record, source: str, op: type, before: Fitted, weight: str, after: Fitted
    ) -> HardwareOp:
        """Build an operator on a view of the graph that has these formats."""
        quant = {source: before[1], node.name: after[1]}
        operands: dict[str, TensorType] = dict(record.operands)
        if weight:
            key = record.key("weight")
            fmt, quant[key] = self._fit(key, weight, None)
            operands["weight"] = new_type(operands["weight"], fmt)
        producer = self.graph.node(source).record
        records = {
            source: replace(producer, output=new_type(producer.output, before[0])),
            node.name: replace(
                record,
                operands=operands,
                output=new_type(record.output, after[0]),
                attrs={**record.attrs, "accumulation": "auto"},
            ),
        }
        view = self.graph.overlaid(records, quant)
        assert issubclass(op, HardwareOp)
        return op.from_node(OpNode(view, node.node))

    def _choose(self, key: tuple[str, ...]) -> Choice:
        """Return the cheapest folding that keeps the interval."""
        if key not in self._choices:
            limit = self.target.interval
            found = cheapest(self._ops[key], self.target.device, limit)
            if found is None:
                raise UnsupportedOp(f"{key[0]}: no folding takes at most {limit} cycles")
            self._choices[key] = found
        return self._choices[key]


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
        if node.name in prefix or node.kind == "layout":
            continue
        if node.record.operands:
            axes.append(Axis(f"{node.path}.weight", weight))
        axes.append(Axis(f"{node.path}.activation", activation))
    ties: tuple[tuple[str, ...], ...] = ()
    if tie:
        groups = [tuple(a.name for a in axes if a.name.endswith(end)) for end in (".weight", ".activation")]
        ties = tuple(group for group in groups if len(group) > 1)
    return Space(tuple(axes), ties)
