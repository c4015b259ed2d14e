"""Activations of few bits: what linear layers read, and the keys and values of attention, are rounded too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mase import interpreter
from mase.calib.cut import AFTER, BEFORE
from mase.calib.edges import FIELDS, Edge, extremes
from mase.calib.layers import places
from mase.errors import ConfigError, FormatError
from mase.formats import Format, QuantParams, parse
from mase.graph import Graph, OpNode
from mase.ops.base import OPS
from mase.ops.dynamic import takes
from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.fields import choice

ALONG = {"token": -1, "channel": -2}
ROWS = 1024  # of what tells how a format calibrates: more than share anything


class Wanted(NamedTuple):
    """An edge that is to be rounded: who gives it, which inputs of nodes read it, the format, and along which axis."""

    source: str
    readers: tuple[tuple[str, int], ...]
    format: str
    axis: int


@METHODS.add("activations")
@dataclass(frozen=True)
class Activations(Method):
    """Round what quantized layers read, and the keys and values of attention, in each block.

    Args:
        inputs: format of what layers read; "" leaves it in float. keys, values: of those of attention, likewise.
        scales: ``dynamic``: found for each token while the model runs; ``static``: found on the calibration data.
            Formats that need none, such as ``mxint8``, are the same under both.
        keys_along: blocks and dynamic scales of keys lie along the features of a ``token``, or along the tokens of a
            ``channel``.

    Source: Xiao et al., SmoothQuant, 2022 (static, per token); Liu et al., KIVI, 2024 (keys per channel, values per
    token).
    """

    inputs: str = "int8c"
    keys: str = ""
    values: str = ""
    scales: str = "dynamic"
    keys_along: str = "token"
    stage: ClassVar[Stage] = "fold"  # it runs before all steps that quantize
    rounds_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("activations: scales", self.scales, ("dynamic", "static"))
        choice("activations: keys_along", self.keys_along, tuple(ALONG))
        for name in ("inputs", "keys", "values"):
            text = getattr(self, name)
            if text:
                self._check(name, text)
        if not (self.inputs or self.keys or self.values):
            raise ConfigError("activations: inputs, keys and values are all empty; give one of them a format")
        if self.keys_along == "channel" and self.keys and self.scales == "static" and not _free(parse(self.keys)):
            raise ConfigError(f"activations: keys {self.keys!r} along a channel: static scales are not; use dynamic")

    def _check(self, name: str, text: str) -> None:
        where = f"activations: {name}"
        try:
            fmt = parse(text)
        except FormatError as fault:
            raise ConfigError(f"{where}: {fault}") from None
        if fmt.chosen:
            raise ConfigError(f"{where}: {text!r} holds weights alone; give a format that rounds")
        if self.scales == "static" and not _by_extremes(fmt):
            has = "scales of groups" if getattr(fmt, "group", 0) else "parameters that extremes of the data do not give"
            allowed = "int8, int8c, nvfp4, and formats without scales, such as mxint8"
            raise ConfigError(f"{where}: {text!r} has {has}; allowed with static scales are {allowed}")
        if self.scales == "dynamic" and not takes(fmt) and not _free(fmt):
            allowed = "int8c (a scale a token), int8g128 (one a group), and formats without scales, such as mxint8"
            raise ConfigError(f"{where}: {text!r} has a scale a tensor; allowed with dynamic scales are {allowed}")

    @property
    def calibrates(self) -> bool:
        """Whether a format takes parameters from data."""
        given = (text for text in (self.inputs, self.keys, self.values) if text)
        return self.scales == "static" and not all(_free(parse(text)) for text in given)

    def run(self, block: Block) -> None:
        paths = frozenset(layer.path for layer in block.layers())
        wanted = [*_inputs(block.graph, paths, self.inputs), *self._attention(block, paths)]
        seen = _seen(block, {one.source for one in wanted}) if self.calibrates else {}
        block.round([self._edge(one, seen) for one in wanted])

    def _edge(self, wanted: Wanted, seen: dict[str, tuple[Tensor, Tensor]]) -> Edge:
        fmt = parse(wanted.format)
        if self.scales == "dynamic" and takes(fmt):
            return Edge(*wanted, dynamic=True)
        data = torch.ones(1, 2) if _free(fmt) else torch.stack(seen[wanted.source])
        return Edge(*wanted, params=fmt.calibrate(data, wanted.axis))

    def _attention(self, block: Block, paths: frozenset[str]) -> Iterator[Wanted]:
        """Yield keys and values of the attentions whose keys a layer of this step gives."""
        if not (self.keys or self.values):
            return
        nodes = [(node, found) for node in block.graph.operators() if (found := _cached(node)) is not None]
        if not nodes and block.name not in (BEFORE, AFTER):
            raise ConfigError(f"activations: keys, values: block {block.name} has no attention that is one node (sdpa)")
        for node, (key, value) in nodes:
            if not _comes_from(node.inputs[key], paths):
                continue
            if self.keys:
                yield Wanted(node.inputs[key].name, ((node.name, key),), self.keys, ALONG[self.keys_along])
            if self.values:
                yield Wanted(node.inputs[value].name, ((node.name, value),), self.values, -1)


def _cached(node: OpNode) -> tuple[int, int] | None:
    """Return which inputs of a node are keys and values."""
    return OPS[node.kind].cached(node.record) if node.kind in OPS else None


def _free(fmt: Format) -> bool:
    """Tell whether a format has the same parameters for all data."""
    small, large = (fmt.calibrate(torch.tensor([[-1.0, size]])) for size in (1.0, 3e9))
    return _equal(small, large)


def _by_extremes(fmt: Format) -> bool:
    """Tell whether the least and greatest value of each feature give the parameters that all data gives."""
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
    return _equal(fmt.calibrate(x), fmt.calibrate(torch.stack([x.amin(0), x.amax(0)])))


def _equal(one: QuantParams, other: QuantParams) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _inputs(graph: Graph, paths: frozenset[str], text: str) -> Iterator[Wanted]:
    """Yield each tensor that layers read, with the nodes that read it as input 0."""
    found: dict[str, dict[str, None]] = {}
    for place in places(graph) if text else ():
        if place.path in paths:
            found.setdefault(place.source, {})[place.node] = None
    for source, nodes in found.items():
        yield Wanted(source, tuple((name, 0) for name in nodes), text, -1)


def _comes_from(node: OpNode, paths: frozenset[str]) -> bool:
    """Tell whether the first layer before an edge is one of these."""
    todo, seen = [node], set[str]()
    while todo:
        node = todo.pop(0)
        if node.kind in OPS and OPS[node.kind].matrices(node.record):
            return node.path in paths
        if node.name not in seen:
            seen.add(node.name)
            todo += node.inputs
    return False


def _seen(block: Block, names: set[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the least and greatest value of each feature of some edges, over all samples."""
    samples, found = block.samples(), dict[str, tuple[Tensor, Tensor]]()
    if not samples:
        raise ConfigError(
            f"activations: block {block.name}: static scales need calibration data; pass calibration tokens"
        )

    def observe(node: OpNode, x: Tensor) -> None:
        if node.name in names:
            found[node.name] = extremes(found, node.name, x)

    for sample in samples:
        interpreter.run(block.graph, sample, observe=observe)
    return found
