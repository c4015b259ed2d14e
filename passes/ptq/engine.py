"""The engine of post-training quantization: walks a model block by block, in two streams of samples (docs/ptq.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch
from torch import Tensor

from mase.calib.cut import AFTER, BEFORE, Cut, Env, Part, cut, kept_edges
from mase.calib.edges import Edge, inserted
from mase.calib.install import install
from mase.calib.layers import Place, check_finite, collect, places
from mase.calib.statistics import Statistics
from mase.errors import ConfigError, GraphError, suggest
from mase.formats.packed import PackedWeight
from mase.graph import Graph
from mase.interpreter import Batch, axes, check_inputs, unpacked
from passes.ptq.allocation import Whole, allocated
from passes.ptq.base import Block, Layer, Method, name_of
from passes.ptq.recipe import Plan

Told = Callable[[int, int, str, float | None], None]  # blocks done, blocks in all, the last one, seconds left


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Args:
        path: of the layer. shape: ``(outputs, inputs)``. formats: of its pieces, and of its branch.
        stored_bits, paper_bits: a weight. weight_error: relative, of the squared norm.
        output_error: relative, of the squared norm of what the layer gives; None where no step needed its inputs.
        tokens: that the layer saw. seconds: of its steps. note: what a user should know. input: format that the layer
            reads in; "" for float.
    """

    path: str
    shape: tuple[int, int]
    formats: tuple[str, ...]
    stored_bits: float
    paper_bits: float
    weight_error: float
    output_error: float | None
    tokens: int
    seconds: float
    note: str = ""
    input: str = ""


def elements(layers: Sequence[LayerReport]) -> int:
    """Return the number of weights of layers."""
    return sum(row.shape[0] * row.shape[1] for row in layers)


def mean_bits(layers: Sequence[LayerReport], name: str) -> float:
    """Return the mean of ``stored_bits`` or ``paper_bits`` a weight."""
    total: float = sum(getattr(row, name) * row.shape[0] * row.shape[1] for row in layers)
    return total / max(1, elements(layers))


@dataclass(frozen=True, eq=False)
class PtqReport:
    """What was done.

    Args:
        layers: in order of execution. packed: the weights of each layer, by path. seconds: of each part, by name.
        folded: float tensors that folds have replaced, by key: ``graph.replace(tensors=folded)`` is the float graph
            that ``packed`` belongs to. edges: what is rounded between nodes, in order.
    """

    layers: tuple[LayerReport, ...]
    packed: Mapping[str, PackedWeight] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    folded: Mapping[str, Tensor] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    @property
    def elements(self) -> int:
        """Weights that were quantized."""
        return elements(self.layers)

    @property
    def stored_bits(self) -> float:
        """Mean bits a quantized weight that are stored."""
        return mean_bits(self.layers, "stored_bits")

    @property
    def paper_bits(self) -> float:
        """Mean bits a quantized weight that papers count."""
        return mean_bits(self.layers, "paper_bits")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, one line a layer."""
        return tuple(f"{row.path}: {row.note}" for row in self.layers if row.note)


# -- one block ---------------------------------------------------------------------------------------------------------


class OpenBlock:
    """One block while its steps run: what methods see (passes/ptq/base.py).

    Args:
        part: in float. samples, floats: edges that come in, an entry a sample, behind the quantized blocks before and
            in float. ties: paths of layers that must have the same format.
    """

    def __init__(
        self,
        part: Part,
        samples: Sequence[Env],
        floats: Sequence[Env],
        layers: Sequence[Place],
        ties: Sequence[Sequence[str]] = (),
    ) -> None:
        self.name, self.graph, self.ties = part.name, part.graph, ties
        self._part, self._places = part, {place.path: place for place in layers}
        self._samples, self._floats = samples, floats
        self._seen: dict[str, Statistics] = {}
        self._sums: frozenset[str] = frozenset()
        self._packed: dict[str, PackedWeight] = {}
        self._lowered: dict[str, Tensor] = {}
        self._targets: list[Env] | None = None
        self.edges: list[Edge] = []
        self.seconds: dict[str, float] = {}
        self._mark = time.perf_counter()

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        if not set(wanted) <= self._sums and self._samples:
            self._sums = self._sums | set(wanted)
            found = collect(self.graph, self.samples(), list(self._places.values()), tuple(sorted(self._sums)))
            self._seen = {place.path: seen for place, seen in found.items()}
        self._mark = time.perf_counter()
        return [self._layer(place) for place in self._places.values()]

    def _layer(self, place: Place) -> Layer:
        seen, weight = self._seen.get(place.path, Statistics()), place.weight(self.graph)
        lowered = self._lowered.get(place.path)
        shown = (weight, None) if lowered is None else (lowered, weight)
        return Layer(place.path, shown[0], seen, place.expert is not None, shown[1])

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        return [self._part.inputs(env) for env in self._samples]

    def targets(self) -> Sequence[Tensor]:
        return [found[self._part.gives[0]] for found in self.float_outputs()]

    def float_outputs(self) -> list[Env]:
        """Return all that the float block gives for the float stream."""
        if self._targets is None:
            self._targets = [self._part.run(env) for env in self._floats]
        return self._targets

    def packed(self, path: str) -> PackedWeight | None:
        return self._packed.get(path)

    def write(self, path: str, weight: PackedWeight) -> None:
        place = self._places.get(path)
        if place is None:
            raise ConfigError(f"block {self.name}: has no layer {path!r}{suggest(path, self._places)}")
        shape = tuple(place.weight(self.graph).shape)
        if weight.shape != shape:
            raise ConfigError(f"layer {path}: quantized weights are {weight.shape}; the layer's are {shape}")
        now = time.perf_counter()
        self.seconds[path] = self.seconds.get(path, 0.0) + now - self._mark
        self._mark, self._packed[path] = now, weight

    def fold(self, tensors: dict[str, Tensor]) -> None:
        for key in tensors:
            if key not in self.graph.tensors:
                raise ConfigError(f"block {self.name}: has no tensor {key!r}{suggest(key, self.graph.tensors)}")
        for path in self._packed:
            if self._places[path].key in tensors:
                raise ConfigError(f"layer {path}: is quantized already; a fold must come before the quantizer")
        self.graph = self.graph.replace(tensors=tensors).verify()
        self._seen, self._sums = {}, frozenset()
        self._lowered = {path: x for path, x in self._lowered.items() if self._places[path].key not in tensors}

    def lower(self, path: str, weight: Tensor) -> None:
        self._lowered[path] = weight

    def round(self, edges: Sequence[Edge]) -> None:
        self.graph = inserted(self.graph, edges)
        self.edges += edges
        self._seen, self._sums = {}, frozenset()

    def done(self) -> dict[str, PackedWeight]:
        """Return what was written."""
        return dict(self._packed)

    def reports(self, quantized: Graph) -> Iterator[LayerReport]:
        """Yield what became of each layer.

        Args:
            quantized: the block with its packed weights.
        """
        for place in self._places.values():
            packed = self._packed.get(place.path)
            if packed is not None:
                dense, seconds = place.weight(quantized), self.seconds.get(place.path, 0.0)
                read = {reader: edge.format for edge in self.edges for reader in edge.readers}
                row = _report(self._layer(place), packed, dense, seconds)
                yield replace(row, input=read.get((place.node, 0), ""))


class View:
    """Show a method some of the layers of a block; all else is the block's."""

    def __init__(self, block: OpenBlock, paths: frozenset[str]) -> None:
        self._block, self._paths = block, paths
        self.name = block.name
        self.ties: Sequence[Sequence[str]] = tuple(
            tie for group in block.ties if len(tie := [p for p in group if p in paths]) > 1
        )

    @property
    def graph(self) -> Graph:
        """The block's graph, after all folds so far."""
        return self._block.graph

    @graph.setter
    def graph(self, graph: Graph) -> None:
        self._block.graph = graph

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        return [layer for layer in self._block.layers(wanted) if layer.path in self._paths]

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        return self._block.samples()

    def targets(self) -> Sequence[Tensor]:
        return self._block.targets()

    def packed(self, path: str) -> PackedWeight | None:
        return self._block.packed(path)

    def write(self, path: str, weight: PackedWeight) -> None:
        self._block.write(path, weight)

    def round(self, edges: Sequence[Edge]) -> None:
        self._block.round(edges)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        self._block.fold(tensors)

    def lower(self, path: str, weight: Tensor) -> None:
        self._block.lower(path, weight)


def _report(layer: Layer, packed: PackedWeight, found: Tensor, seconds: float) -> LayerReport:
    weight = layer.wanted
    if packed.branch is not None:
        a, b = packed.branch
        found = found + b.dense() @ a.dense()
    parts = [packed, *(packed.branch or ())]
    norm = float(weight.square().sum())
    error = None
    if layer.seen.gram is not None:
        whole = layer.output_error(torch.zeros_like(weight))
        error = layer.output_error(found) / whole if whole else 0.0
    return LayerReport(
        layer.path,
        packed.shape,
        tuple(dict.fromkeys(str(piece.format) for part in parts for piece in part.pieces)),
        packed.stored_bits() / packed.elements,
        packed.paper_bits() / packed.elements,
        float((found - weight).square().sum()) / norm if norm else 0.0,
        error,
        layer.seen.tokens,
        seconds,
        "no token reached this expert: it was calibrated on all tokens of its layer" if layer.seen.spread else "",
    )


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Done:
    """What became of one part.

    Args:
        packed: by path of the layer. folded: float tensors that folds have replaced, by key.
        quantized: the part as it computes now. layers: reports. seconds: of the part. edges: that are rounded.
    """

    packed: dict[str, PackedWeight]
    folded: dict[str, Tensor]
    quantized: Part
    layers: tuple[LayerReport, ...]
    seconds: float
    edges: tuple[Edge, ...] = ()


class Walk:
    """Quantize the parts of a model in order; samples travel behind the quantized ones, and in float where needed.

    Args:
        plan: what is done with which layer. samples: the inputs of the whole graph by name, an entry a sample.
    """

    def __init__(self, plan: Plan, samples: Sequence[Env]) -> None:
        self.plan = plan
        self.samples: list[Env] = list(samples)
        self.floats: list[Env] = list(samples) if plan.blockwise else []

    def step(self, part: Part, later: frozenset[str]) -> Done:
        """Quantize one part, and let the samples pass it.

        Args:
            later: edges that later parts take; others are forgotten.
        """
        start = time.perf_counter()
        outside = part.name in (BEFORE, AFTER)
        steps = {place: self.plan.methods(place.path, outside) for place in places(part.graph)}
        chosen = [place for place, methods in steps.items() if methods]
        check_finite(part.graph, chosen)
        ties = self.plan.tied([place.path for place in chosen])
        block = OpenBlock(part, self.samples, self.floats, chosen, ties)
        _run(block, {place.path: steps[place] for place in chosen})
        packed = block.done()
        folded = {key: x for key, x in block.graph.tensors.items() if x is not part.graph.tensors[key]}
        quantized = part.on(install(block.graph, packed, formats=False))
        self._pass(part, quantized, block, later)
        rows, seconds = tuple(block.reports(quantized.graph)), time.perf_counter() - start
        return Done(packed, folded, quantized, rows, seconds, tuple(block.edges))

    def passed(self, part: Part, quantized: Part, later: frozenset[str]) -> None:
        """Let the samples pass a part that was quantized before."""
        self._pass(part, quantized, OpenBlock(part, self.samples, self.floats, ()), later)

    def _pass(self, part: Part, quantized: Part, block: OpenBlock, later: frozenset[str]) -> None:
        if self.floats:
            outputs = block.float_outputs()
            self.floats = [kept_edges({**env, **found}, later) for env, found in zip(self.floats, outputs, strict=True)]
        for i, env in enumerate(self.samples):
            found = quantized.run(env)
            if not bool(torch.isfinite(found[part.gives[0]]).all()):
                raise GraphError(f"{part.name}: gives numbers that are not finite once it is quantized; it is not kept")
            self.samples[i] = kept_edges({**env, **found}, later)


def _run(block: OpenBlock, steps: Mapping[str, tuple[Method, ...]]) -> None:
    """Do the steps of all layers: the folds that recipes begin with, then the others."""
    folds = {path: tuple(takewhile(lambda method: method.folds, methods)) for path, methods in steps.items()}
    _aligned(block, folds)
    _aligned(block, {path: methods[len(folds[path]) :] for path, methods in steps.items()})


def _aligned(block: OpenBlock, steps: Mapping[str, tuple[Method, ...]]) -> None:
    """Do steps of all layers: the last ones of each at the same time."""
    depth = max((len(methods) for methods in steps.values()), default=0)
    for turn in range(-depth, 0):
        groups: dict[Method, set[str]] = {}
        for path, methods in steps.items():
            if len(methods) >= -turn:
                groups.setdefault(methods[turn], set()).add(path)
        for method, paths in groups.items():
            view: Block = View(block, frozenset(paths))
            method.run(view)


def quantize(
    graph: Graph, plan: Plan, tokens: Tensor | Iterable[Batch] = (), told: Told | None = None
) -> tuple[Graph, PtqReport]:
    """Quantize the weights of a graph in memory.

    Args:
        tokens: samples ``[n, ...]`` in one tensor, or batches; see :func:`samples_of`. told: is called after each part.

    Raises:
        ConfigError: calibration data is missing, or the plan does not fit the graph.
    """
    made = cut(graph)
    check(made, plan)
    samples = samples_of(graph, tokens)
    if plan.calibrates and not samples:
        needy = next((f"method {name_of(m)}" for m in plan.all_methods if m.calibrates), "allocate")
        raise ConfigError(f"{needy}: needs calibration data; pass calibration tokens")
    plan = allocated(plan, Whole(made), samples)
    walk = Walk(plan, samples if plan.calibrates else [])
    packed, folded = dict[str, PackedWeight](), dict[str, Tensor]()
    rows, seconds, edges = list[LayerReport](), dict[str, float](), list[Edge]()
    watch = Watch(len(made.parts), told)
    for part, later in made.needed():
        done = walk.step(part, later)
        packed |= done.packed
        folded |= done.folded
        rows += done.layers
        edges += done.edges
        seconds[part.name] = done.seconds
        watch.done(part.name)
    built = install(inserted(graph.replace(tensors=folded), edges), packed).verify()
    return built, PtqReport(tuple(rows), packed, seconds, folded, tuple(edges))


class Watch:
    """Say how far a walk is, and how long it will take."""

    def __init__(self, total: int, told: Told | None, before: int = 0) -> None:
        self._total, self._told, self._before, self._count = total, told, before, before
        self._start = time.perf_counter()

    def done(self, name: str) -> None:
        """One more part is done."""
        self._count += 1
        spent, here = time.perf_counter() - self._start, self._count - self._before
        if self._told is not None:
            self._told(self._count, self._total, name, spent / here * (self._total - self._count))


def samples_of(graph: Graph, tokens: Tensor | Iterable[Batch]) -> list[Env]:
    """Return calibration data as samples of one row each, where the graph lets the batch be free."""
    names = [node.name for node in graph.inputs]
    free = all(axes(node)[:1] not in ([""], []) for node in graph.inputs)
    out: list[Env] = []
    for batch in [tokens] if isinstance(tokens, Tensor) else tokens:
        inputs = unpacked(graph, batch)
        size = 1 if free else graph.inputs[0].record.output.shape[0]
        for rows in zip(*(x.split(size) for x in inputs), strict=True):
            check_inputs(graph, rows)
            out.append(dict(zip(names, rows, strict=True)))
    return out


def check(made: Cut, plan: Plan) -> None:
    """Refuse a plan that does not fit a model.

    Raises:
        ConfigError: a glob matches no layer, or weights that are quantized belong to several parts.
    """
    found = {part.name: places(part.graph) for part in made.parts}
    inside = [place for name, group in found.items() if name not in (BEFORE, AFTER) for place in group]
    plan.check_model(inside, [place for name in (BEFORE, AFTER) for place in found.get(name, ())])
    users: dict[str, list[str]] = {}
    for part in made.parts:
        for key in part.graph.tensors:
            users.setdefault(key, []).append(part.name)
    for name, group in found.items():
        for place in group:
            if len(users[place.key]) > 1 and plan.methods(place.path, name in (BEFORE, AFTER)):
                others = ", ".join(other for other in users[place.key] if other != name)
                raise ConfigError(f"layer {place.path}: shares its weights with {others}; skip it")
