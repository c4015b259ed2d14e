"""Give the tensors of a graph their formats: one way, for the quantize pass and for every point of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from mase.calib.adapt import adapter
from mase.calib.fit import fit, fit_edge
from mase.formats import Format, QuantParams, parse
from mase.graph import Graph, OpNode, Record, new_type
from mase.netlist import encoded, host_prefix
from mase.ops.base import OPS, HardwareOp, constant, fastest_axes, moves

Fitted = tuple[Format, QuantParams]


@dataclass(frozen=True)
class Chosen:
    """Formats of one node, by text form.

    Args:
        output: of its result; None leaves it real. operands: of its parameters, by role.
        attrs: how it sums and rounds (see :func:`arithmetic`).
    """

    output: str | None = None
    operands: tuple[tuple[str, str], ...] = ()
    attrs: tuple[tuple[str, str], ...] = ()


def arithmetic(node: OpNode, accumulation: str | None = None, rounding: str | None = None) -> dict[str, str]:
    """Return the attributes that say how a node sums and rounds."""
    if node.kind == "opaque":
        return {}
    sums = issubclass(OPS[node.kind], HardwareOp) and node.record.operands
    return ({"accumulation": accumulation or "auto"} if sums else {}) | {"rounding": rounding or "even"}


def weights(node: OpNode) -> list[str]:
    """Return the parameters of a node that take a format of weights or biases."""
    takes = () if node.kind in ("opaque", "input") else OPS[node.kind].weights
    return [role for role in node.record.operands if role in takes]


def follows(node: OpNode) -> bool:
    """Tell whether a node has the format of its input, because it only moves elements."""
    return moves(node) and len(node.inputs) == 1


def rounds(node: OpNode) -> bool:
    """Tell whether a result may have a format: integers name things, and a constant is not a measured range."""
    return node.kind != "opaque" and not constant(node) and node.record.output.dtype.startswith(("float", "bfloat"))


class Assignment:
    """Turn choices into records and format parameters. What is fitted to data is fitted once.

    Args:
        graph: whose tensors get formats. samples: float values of every edge on calibration data, by edge name.
    """

    def __init__(self, graph: Graph, samples: Mapping[str, Tensor]) -> None:
        self._samples, self._axes = samples, fastest_axes(graph)
        self.entries = {node.name for node in encoded(graph)}
        host = {*host_prefix(graph)} - self.entries
        self.nodes = [node for node in graph.nodes() if node.kind != "output" and node.name not in host]
        followers = [node for node in self.nodes if follows(node) and node.name not in self.entries]
        self._follows = {node.name: node.inputs[0].name for node in followers}
        self._adapters = {node.name for node in self.nodes if adapter(node)}
        self._fits: dict[tuple[str, str], Fitted] = {}
        self._records: dict[tuple[str, Chosen], Record] = {}

    def of(self, chosen: Mapping[str, Chosen]) -> tuple[dict[str, Record], dict[str, QuantParams]]:
        """Return the records of all nodes by name, and format parameters by edge or tensor.

        Equal choices give the same objects.

        Args:
            chosen: by node name; nothing stands for no format.

        Raises:
            ConfigError: a text names no format, or there is no data to calibrate on.
        """
        records: dict[str, Record] = {}
        quant: dict[str, QuantParams] = {}
        given: dict[str, Chosen] = {}
        for node in self.nodes:
            name, source = node.name, self._follows.get(node.name)
            if name in self._adapters:
                given[name], fmt = self._adapted(node, given, records, quant, chosen)
            elif source is not None:
                given[name], fmt = Chosen(given[source].output), records[source].output.format
                if source in quant:
                    quant[name] = self._moved(node, quant[source])
            else:
                one = given[name] = chosen.get(name, Chosen())
                for role, text in one.operands:
                    quant[node.record.key(role)] = self.weight(node, role, text)[1]
                fmt = self._own(node, records)
                if one.output is not None:
                    fmt, quant[name] = self.edge(node, one.output)
            records[name] = self._record(node, given[name], fmt)
        return records, quant

    def _moved(self, node: OpNode, params: QuantParams) -> QuantParams:
        """Return the parameters of the result of a node that moves elements."""
        axis = self._axes[node.name]
        if OPS[node.kind].in_order(node.record) or axis == params.axis:
            return params
        return replace(params, axis=axis)

    def _adapted(
        self,
        node: OpNode,
        given: Mapping[str, Chosen],
        records: Mapping[str, Record],
        quant: dict[str, QuantParams],
        chosen: Mapping[str, Chosen],
    ) -> tuple[Chosen, Format | None]:
        """Give an adapter what its reader asks for: the format that comes, that of the reader's result, or another."""
        (user,), (source,) = node.users, node.inputs
        come = records[source.name].output.format
        if come is None:
            return Chosen(), None
        text = OPS[user.kind].adapted(user, come, quant.get(source.name, QuantParams()))
        if text == "":
            if source.name in quant:
                quant[node.name] = quant[source.name]
            return Chosen(given[source.name].output), come
        result = text is None
        text = chosen.get(user.name, Chosen()).output if text is None else text
        if text is None:
            return Chosen(), None
        fmt, params = self.edge(user if result else node, text)
        key = (node.name, f"as {user.name}: {text}")
        if key not in self._fits:  # the same object each time
            self._fits[key] = fmt, replace(params, axis=self._axes[node.name])
        fmt, quant[node.name] = self._fits[key]
        return Chosen(text), fmt

    def _own(self, node: OpNode, records: Mapping[str, Record]) -> Format | None:
        """Return the format of a result that is an index, where its input has a format; nobody chooses it."""
        text = OPS[node.kind].index_format(node) if node.kind in OPS else ""
        sources = (records[source.name].output.format for source in node.inputs if source.name in records)
        return parse(text) if text and any(sources) else None

    def edge(self, node: OpNode, text: str) -> Fitted:
        """Return the format of a node's result and its parameters."""
        key = (node.name, text)
        if key not in self._fits:
            where = f"quantize: {'inputs' if node.name in self.entries else node.path}"
            seen = node.inputs[0].name if node.name in self._adapters else node.name
            self._fits[key] = fit_edge(text, self._samples.get(seen), where, self._axes[node.name])
        return self._fits[key]

    def weight(self, node: OpNode, role: str, text: str) -> Fitted:
        """Return the format of a parameter and its parameters."""
        key = (f"{node.name}.{role}", text)
        if key not in self._fits:
            axes = OPS[node.kind].axes(node.record, role)
            self._fits[key] = fit(text, node.tensor(role), f"quantize: {node.record.key(role)}", axes)
        return self._fits[key]

    def _record(self, node: OpNode, one: Chosen, fmt: Format | None) -> Record:
        key = (node.name, one)
        if key not in self._records:
            record = node.record
            operands = {
                role: new_type(record.operands[role], self.weight(node, role, text)[0]) for role, text in one.operands
            }
            self._records[key] = replace(
                record,
                output=record.output
                if fmt is None and node.name not in self._follows
                else new_type(record.output, fmt),
                operands={**record.operands, **operands},
                attrs={**record.attrs, **dict(one.attrs)},
            )
        return self._records[key]
