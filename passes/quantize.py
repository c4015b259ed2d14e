"""Give every operand and every produced tensor its format, and calibrate it (docs/arithmetic.md, "Grids")."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from mase.calib.adapt import inserted, pruned
from mase.calib.assign import Assignment, Chosen, arithmetic, rounds, weights
from mase.errors import ConfigError, suggest
from mase.graph import Graph, OpNode, Record
from mase.interpreter import Batch, is_exact, run, unpacked
from mase.lowering import lower
from mase.netlist import host_prefix
from passes.base import graph_pass


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
def quantize(graph: Graph, config: QuantizeConfig, calib: Iterable[Batch] = ()) -> tuple[Graph, QuantizeReport]:
    """Give formats by rule, calibrate weights on themselves and activations on ``calib`` in float.

    Args:
        calib: batches, each a tensor, one tensor an input, or tensors by name; needed where an activation's format has
            parameters.

    Raises:
        ConfigError: a glob matches nothing, a field is impossible, or calibration data is missing.
    """
    return apply(graph, config, ranges(graph, calib))


def apply(graph: Graph, config: QuantizeConfig, samples: Mapping[str, Tensor]) -> tuple[Graph, QuantizeReport]:
    """Do the same on activations that were observed before: float values by edge name."""
    rules = Rules(config, graph)
    graph = inserted(graph)
    assignment = Assignment(graph, samples)
    chosen = {node.name: rules.chosen(node, node.name in assignment.entries) for node in assignment.nodes}
    records, quant = assignment.of(chosen)
    done = pruned(graph.replace(records, quant=quant))
    done, warnings = settle(done)
    return done.verify(), _report(done, warnings)


def ranges(graph: Graph, calib: Iterable[Batch], only: Container[str] | None = None) -> dict[str, Tensor]:
    """Return the float values of every edge on the calibration batches, concatenated.

    Args:
        only: edges that are wanted, by name; all by default.
    """
    seen: dict[str, list[Tensor]] = {}

    def observe(node: OpNode, value: object) -> None:
        if isinstance(value, Tensor) and (only is None or node.name in only):  # an opaque call may give a tuple
            seen.setdefault(node.name, []).append(value)

    for batch in [calib] if isinstance(calib, Tensor) else calib or ():
        run(graph, unpacked(graph, batch), observe=observe)
    return {name: _joined(parts) for name, parts in seen.items()}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the values of several batches in one tensor; where more axes than the first differ, the last stays."""
    if len({part.shape[1:] for part in parts}) == 1 and parts[0].ndim:
        return torch.cat(list(parts))
    last = {part.shape[-1:] for part in parts}
    shape = (-1, *next(iter(last))) if len(last) == 1 else (-1,)
    return torch.cat([part.reshape(shape) for part in parts])


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

    def chosen(self, node: OpNode, is_input: bool) -> Chosen:
        """Return what a node gets."""
        if is_input:
            return Chosen(self.output(node, is_input))
        formats = self.formats(node.path)
        attrs = arithmetic(node, formats.accumulation, formats.rounding)
        return Chosen(self.output(node, is_input), tuple(self.operands(node).items()), tuple(attrs.items()))

    def operands(self, node: OpNode) -> dict[str, str]:
        """Return text forms by role, for the parameters that get a format."""
        formats = self.formats(node.path)
        texts = {role: formats.bias if role == "bias" else formats.weight for role in weights(node)}
        return {role: text for role, text in texts.items() if text is not None}

    def output(self, node: OpNode, is_input: bool) -> str | None:
        """Return the text form of the produced tensor's format."""
        if not rounds(node):
            return None
        if is_input:
            return self.config.inputs or self.config.default.activation
        formats = self.formats(node.path)
        return formats.output or formats.activation


def settle(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """Build every operator once: write down what building decided, and collect the warnings."""
    records: dict[str, Record] = {}
    warnings: list[str] = []
    for node in graph.operators():
        if not is_exact(node):
            continue
        built = lower(node)
        warnings += built.warnings()
        if settled := built.settled():
            records[node.name] = replace(node.record, attrs={**node.record.attrs, **settled})
    return graph.replace(records), tuple(warnings)


def _report(graph: Graph, warnings: tuple[str, ...]) -> QuantizeReport:
    formats = {}
    for node in graph.nodes():
        kinds = {node.name: node.record.output} if node.kind != "output" else {}
        kinds.update({node.record.key(role): kind for role, kind in node.record.operands.items()})
        formats.update({name: str(kind.format) for name, kind in kinds.items() if kind.format is not None})
    host = host_prefix(graph)  # the host reshapes real values; the first hardware operator reads codes
    inexact = tuple(node.path for node in graph.operators() if not is_exact(node) and node.name not in host)
    return QuantizeReport(formats, inexact, warnings)
