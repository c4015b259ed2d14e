"""Give every operand and every produced tensor its format, and calibrate it (ARITHMETIC 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from mase.errors import ConfigError, FormatError, UnsupportedOp, suggest
from mase.formats import Format, QuantParams, parse
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.graph import Graph, OpNode, Record, new_type
from mase.interpreter import is_exact, run
from mase.netlist import host_prefix
from mase.ops.base import OPS, HardwareOp
from passes.base import graph_pass

AUTO_GUARD = 8  # guard bits where the exact accumulator of block formats would pass its limit


@dataclass(frozen=True)
class NodeFormats:
    """Formats by text form; None leaves it to the default, or to float where the default has none.

    Args:
        weight: of the weights. activation: in ``default`` alone, of every produced tensor and the graph inputs.
        output: of the produced tensor (overrides ``activation``). bias: None keeps it on the accumulator's grid.
        accumulation: ``auto``, ``exact`` or ``aligned(G)``. rounding: ``even``, ``half_up`` or ``trunc``.
    """

    weight: str | None = None
    activation: str | None = None
    output: str | None = None
    bias: str | None = None
    accumulation: str | None = None
    rounding: str | None = None


@dataclass(frozen=True)
class QuantizeConfig:
    """What to quantize.

    Args:
        default: formats of every node. inputs: format of the graph inputs; None is ``default.activation``.
        overrides: glob of module paths -> formats; the first match wins, field by field over the default.
    """

    default: NodeFormats = field(default_factory=NodeFormats)
    overrides: Mapping[str, NodeFormats] = field(default_factory=dict)
    inputs: str | None = None


@dataclass(frozen=True)
class QuantizeReport:
    """Formats given, by edge or parameter, and what a user should know of the numbers."""

    formats: Mapping[str, str]
    inexact: tuple[str, ...]
    warnings: tuple[str, ...]


@graph_pass("quantize", QuantizeConfig, provides=("formats",))
def quantize(graph: Graph, config: QuantizeConfig, calib: Sequence[Tensor] = ()) -> tuple[Graph, QuantizeReport]:
    """Give formats by rule, calibrate weights on themselves and activations on ``calib`` in float.

    Args:
        calib: batches for the first graph input; needed where an activation's format has parameters.

    Raises:
        ConfigError: a glob matches nothing, a field is impossible, or calibration data is missing.
    """
    return apply(graph, config, ranges(graph, calib) if calib else {})


def apply(graph: Graph, config: QuantizeConfig, samples: Mapping[str, Tensor]) -> tuple[Graph, QuantizeReport]:
    """Do the same on activations that were observed before: float values by edge name."""
    rules = Rules(config, graph)
    prefix = host_prefix(graph)
    records: dict[str, Record] = {}
    quant: dict[str, QuantParams] = {}
    for node in graph.nodes():
        if node.kind == "output" or node.name in prefix[:-1]:
            continue
        records[node.name] = rules.record(node, is_input=bool(prefix) and node.name == prefix[-1], records=records)
        for role, kind in records[node.name].operands.items():
            if kind.format is not None:
                axis = 0 if isinstance(kind.format, Int) else -1
                quant[node.record.key(role)] = kind.format.calibrate(node.tensor(role), axis)
        fmt = records[node.name].output.format
        if fmt is not None:
            quant[node.name] = _activation_params(node, fmt, samples, quant)
    done = graph.replace(records, quant=quant)
    done, warnings = settle_accumulation(done)
    return done.verify(), _report(done, warnings)


def ranges(graph: Graph, calib: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the float values of every edge on the calibration batches, concatenated."""
    seen: dict[str, list[Tensor]] = {}
    for batch in calib:
        values = run(graph, (batch,), keep=True)
        for name, value in values.reals.items():
            seen.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in seen.items()}


class Rules:
    """Match nodes with the configuration."""

    def __init__(self, config: QuantizeConfig, graph: Graph) -> None:
        paths = [node.path for node in graph.operators()]
        for glob in config.overrides:
            if not any(fnmatchcase(path, glob) for path in paths):
                raise ConfigError(f"quantize.overrides {glob!r}: matches no node{suggest(glob, paths)}")
        self.config = config

    def formats(self, path: str) -> NodeFormats:
        """Return the default with the first matching override laid over it."""
        base = self.config.default
        for glob, over in self.config.overrides.items():
            if fnmatchcase(path, glob):
                given = {k: v for k, v in vars(over).items() if v is not None}
                return replace(base, **given)
        return base

    def record(self, node: OpNode, is_input: bool, records: Mapping[str, Record]) -> Record:
        """Return the node's record with its formats."""
        record, formats = node.record, self.formats(node.path)
        if is_input or node.kind == "input":
            text = self.config.inputs or self.config.default.activation
            return replace(record, output=new_type(record.output, _parse(text, "quantize.inputs")))
        if node.kind == "opaque":
            return record
        where = f"quantize: {node.path}"
        if node.kind == "layout":
            source = node.inputs[0]
            fmt = records[source.name].output.format if source.name in records else None
            return replace(record, output=new_type(record.output, fmt))
        operands = dict(record.operands)
        for role in operands:
            text = formats.bias if role == "bias" else formats.weight
            operands[role] = new_type(operands[role], _parse(text, f"{where}.{role}"))
        output = new_type(record.output, _parse(formats.output or formats.activation, f"{where}.output"))
        attrs = {**record.attrs, "accumulation": formats.accumulation or "auto"} if operands else dict(record.attrs)
        attrs["rounding"] = formats.rounding or "even"
        return replace(record, operands=operands, output=output, attrs=attrs)


def settle_accumulation(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """Turn ``auto`` into ``exact``, or into ``aligned(8)`` where the exact accumulator of block formats is too wide."""
    records, warnings = {}, []
    for node in graph.operators():
        if is_exact(node):
            records[node.name], notes = settled(node)
            warnings += notes
    return graph.replace(records), tuple(warnings)


def settled(node: OpNode) -> tuple[Record, tuple[str, ...]]:
    """Return the record with its accumulation chosen, and the operator's warnings.

    Raises:
        UnsupportedOp: no choice has an exact reference.
    """
    record, op = node.record, OPS[node.kind]
    assert issubclass(op, HardwareOp)
    if record.attrs.get("accumulation") != "auto":
        return record, op.from_node(node).warnings()
    exact = replace(record, attrs={**record.attrs, "accumulation": "exact"})
    try:
        return exact, op.from_node(node.with_record(exact)).warnings()
    except UnsupportedOp as refused:
        aligned = replace(record, attrs={**record.attrs, "accumulation": f"aligned({AUTO_GUARD})"})
        try:
            return aligned, op.from_node(node.with_record(aligned)).warnings()
        except UnsupportedOp:
            raise refused from None


def _activation_params(
    node: OpNode,
    fmt: Format,
    samples: Mapping[str, Tensor],
    quant: Mapping[str, QuantParams],
) -> QuantParams:
    """Calibrate a produced tensor; layout passes its input's parameters on."""
    if node.kind == "layout" and node.inputs[0].name in quant:
        return quant[node.inputs[0].name]
    if isinstance(fmt, Fixed):
        return QuantParams()
    if node.name not in samples:
        raise ConfigError(f"quantize: {node.path}: format {fmt} is calibrated on data; pass calibration batches")
    return fmt.calibrate(samples[node.name])


def _parse(text: str | None, where: str) -> Format | None:
    if text is None:
        return None
    try:
        return parse(text)
    except FormatError as error:
        raise ConfigError(f"{where}: {error}") from None


def _report(graph: Graph, warnings: tuple[str, ...]) -> QuantizeReport:
    formats = {}
    for node in graph.nodes():
        kinds = {node.name: node.record.output} if node.kind != "output" else {}
        kinds.update({node.record.key(role): kind for role, kind in node.record.operands.items()})
        formats.update({name: str(kind.format) for name, kind in kinds.items() if kind.format is not None})
    inexact = tuple(node.path for node in graph.operators() if not is_exact(node))
    return QuantizeReport(formats, inexact, warnings)
