"""Mixed bits in a recipe: each layer gets one of several formats, within an average of stored bits (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mase.calib.allocate import Options, allocate
from mase.calib.cut import AFTER, BEFORE, Cut, Env, Part, kept_edges
from mase.calib.delta_loss import is_reached, next_token, rounded, stored_bits, with_means
from mase.calib.layers import Place, check_finite, collect, places
from mase.errors import ConfigError, suggest
from mase.formats import Format, parse
from mase.interpreter import train_all
from passes.ptq.recipe import Allocation, Plan, matches

Scores = dict[str, list[float]]  # by path, one an option


class Parts(Protocol):
    """A model in parts, each read when it is asked for."""

    @property
    def total(self) -> int:
        """How many there are."""

    def part(self, number: int) -> Part:
        """Return one with its weights."""

    def later(self, number: int) -> frozenset[str]:
        """Return the edges that parts behind one still take."""


class Whole:
    """The parts of a graph in memory."""

    def __init__(self, made: Cut) -> None:
        self._parts = list(made.needed())
        self.total = len(self._parts)

    def part(self, number: int) -> Part:
        return self._parts[number][0]

    def later(self, number: int) -> frozenset[str]:
        return self._parts[number][1]


@dataclass(frozen=True, eq=False)
class Question:
    """What a sensitivity is asked: how much each option of each layer hurts.

    Args:
        parts: of the model, in float. samples: inputs of the whole graph by name, an entry a sample.
        paths: layers that choose. options: formats.
    """

    parts: Parts
    samples: Sequence[Env]
    paths: frozenset[str]
    options: tuple[Format, ...]

    def layers(self, part: Part) -> list[Place]:
        """Return the layers of a part that choose."""
        return [place for place in places(part.graph) if place.path in self.paths]

    def walked(self) -> Iterator[tuple[Part, list[Env]]]:
        """Iterate over the parts, each with the samples that reach it in float."""
        envs = list(self.samples)
        for number in range(self.parts.total):
            part, later = self.parts.part(number), self.parts.later(number)
            yield part, envs
            if number < self.parts.total - 1:
                envs = [kept_edges({**env, **part.run(env)}, later) for env in envs]


def weight_error(question: Question) -> Scores:
    """Score a layer by the squared error of its weights, relative to their squared norm; needs no samples."""
    found: Scores = {}
    for number in range(question.parts.total):
        part = question.parts.part(number)
        for place in question.layers(part):
            weight = place.weight(part.graph)
            norm = float(weight.square().sum(dtype=torch.float64)) or 1.0
            errors = (rounded(weight, fmt) - weight for fmt in question.options)
            found[place.path] = [float(error.square().sum(dtype=torch.float64)) / norm for error in errors]
    return found


def output_error(question: Question) -> Scores:
    """Score a layer by the squared error of what it gives, relative to the squared norm of that, on float samples."""
    found: Scores = {}
    for part, envs in question.walked():
        seen = collect(part.graph, [part.inputs(env) for env in envs], question.layers(part), ("gram",))
        for place, sums in seen.items():
            weight, gram = place.weight(part.graph).double(), sums.autocorrelation(f"allocate: layer {place.path}")
            norm = float(((weight @ gram) * weight).sum()) or 1.0
            errors = [rounded(weight.float(), fmt).double() - weight for fmt in question.options]
            found[place.path] = [float(((error @ gram) * error).sum()) / norm for error in errors]
    return found


def delta_loss(question: Question) -> Scores:
    """Score a layer by the sum of ``|gradient * error|``, all layers rounded at once (docs/ptq/delta_loss.md).

    Block by block: the samples go forward and what comes into each part is kept; then the parts are run again from the
    last to the first, each with gradients of its own alone. In memory are one part, its activations for one sample,
    and the edges between parts.
    """
    found: Scores = {path: [] for path in question.paths}
    for fmt in question.options:
        for path, score in _replayed(question, fmt).items():
            found[path].append(score)
    return found


def _replayed(question: Question, fmt: Format) -> dict[str, float]:
    parts, envs = question.parts, list(question.samples)
    come = list[list[Env]]()
    for number in range(parts.total):
        come.append(envs)
        if number < parts.total - 1:
            part = parts.part(number)
            part = part.on(part.graph.on({**part.graph.tensors, **_tables(question, part, fmt)}))
            envs = [kept_edges({**env, **part.run(env)}, parts.later(number)) for env in envs]
    felt, reached = dict.fromkeys(sorted(question.paths), 0.0), set[str]()
    back: list[Env] = [{} for _ in question.samples]  # gradients of edges, by name
    for number in reversed(range(parts.total)):
        part = parts.part(number)
        _backward(question, part, fmt, come[number], back, felt, reached, number == parts.total - 1)
    return _with_means(felt, reached)


def _backward(
    question: Question,
    part: Part,
    fmt: Format,
    envs: Sequence[Env],
    back: list[Env],
    felt: dict[str, float],
    reached: set[str],
    last: bool,
) -> None:
    """Run a part again on each sample; add what its layers feel, and hand on the gradients of what came in."""
    tables = {key: x.requires_grad_() for key, x in _tables(question, part, fmt).items()}
    graph = part.graph.on({**{key: x.detach() for key, x in part.graph.tensors.items()}, **tables})
    for i, env in enumerate(envs):
        entries = {n: x.detach().requires_grad_() if x.is_floating_point() else x for n, x in env.items()}
        given = dict(zip(part.gives, train_all(graph, part.inputs(entries)), strict=True))
        if last:
            loss = next_token(given[part.gives[0]], (next(iter(question.samples[i].values())),))
            if not bool(torch.isfinite(loss)):
                raise ConfigError(f"allocate: the loss under {fmt} is {float(loss.detach())}; allowed are numbers")
            ends, weights = [loss], [torch.ones_like(loss)]
        else:
            names = [name for name in part.gives if name in back[i] and given[name].requires_grad]
            ends, weights = [given[name] for name in names], [back[i].pop(name) for name in names]
        wanted = {**tables, **{name: entries[name] for name in part.takes if entries[name].requires_grad}}
        if not ends or not wanted:
            continue
        raw = torch.autograd.grad(ends, list(wanted.values()), weights, allow_unused=True)
        gradients: list[Tensor | None] = list(raw)
        found = {name: gradient for name, gradient in zip(wanted, gradients, strict=True) if gradient is not None}
        for name in found.keys() - tables.keys():
            back[i][name] = back[i][name] + found[name] if name in back[i] else found[name]
        own = {key: found[key] for key in tables if key in found}
        for place in question.layers(part):
            if place.key in own:
                error = (part.graph.tensors[place.key] - tables[place.key]).detach()
                pair = own[place.key], error
                gradient, error = pair if place.expert is None else (x[place.expert] for x in pair)
                felt[place.path] += float((gradient * error).abs().sum(dtype=torch.float64))
                reached |= {place.path} if bool(is_reached(gradient)) else set()


def _tables(question: Question, part: Part, fmt: Format) -> dict[str, Tensor]:
    """Return the tables of a part whose layers choose, rounded."""
    tables: dict[str, Tensor] = {}
    for place in question.layers(part):
        whole = part.graph.tensors[place.key].detach()
        if place.expert is None:
            tables[place.key] = rounded(whole.float(), fmt)
            continue
        if place.key not in tables:
            tables[place.key] = whole.float().clone()
        tables[place.key][place.expert] = rounded(whole[place.expert].float(), fmt)
    return tables


def _with_means(felt: dict[str, float], reached: set[str]) -> dict[str, float]:
    """Give an expert that no token reached the mean of the others of its stack."""
    stacks: dict[str, list[str]] = {}
    for path in felt:
        if path.endswith("]"):
            stacks.setdefault(path.rpartition("[")[0], []).append(path)
    for group in stacks.values():
        score = torch.tensor([felt[path] for path in group], dtype=torch.float64)
        score = with_means(score, torch.tensor([path in reached for path in group]))
        felt |= zip(group, score.tolist(), strict=True)
    return felt


SENSITIVITIES: Mapping[str, Callable[[Question], Scores]] = {
    "mse": weight_error,
    "output": output_error,
    "delta_loss": delta_loss,
}


# -- the choice --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choice:
    """A choice that can be made, before anything is measured.

    Args:
        plan: whose formats are chosen. ask: what for. bits: of each layer by path, one an option, branches included.
        ties: layers that choose alike. fixed: options that are given. most: bits of all layers together.
    """

    plan: Plan
    ask: Allocation
    bits: Mapping[str, tuple[int, ...]]
    ties: tuple[tuple[str, ...], ...]
    fixed: Mapping[str, int]
    most: float

    @classmethod
    def of(cls, plan: Plan, parts: Parts) -> Choice | None:
        """Return the choice that a plan asks for, from the shapes of weights alone; None where it asks for none.

        Raises:
            ConfigError: no choice is within the bits, or a fixed option is for no layer.
        """
        ask = plan.allocate
        if ask is None:
            return None
        formats = [parse(text) for text in ask.options]
        bits, weights = dict[str, tuple[int, ...]](), 0
        for number in range(parts.total):
            part = parts.part(number)
            for place in places(part.graph):
                if methods := plan.methods(place.path, part.name in (BEFORE, AFTER)):
                    outputs, inputs = place.weight(part.graph).shape
                    extra = sum(method.extra_bits((outputs, inputs)) for method in methods)
                    bits[place.path] = tuple(
                        extra + stored_bits((outputs, inputs), fmt, ask.charged) for fmt in formats
                    )
                    weights += outputs * inputs
        ties, fixed = plan.tied(list(bits)), _fixed(ask, bits)
        _check_budget(ask, bits, ties, fixed, weights)
        return cls(plan, ask, bits, ties, fixed, ask.bits * weights)

    def made(self, parts: Parts, samples: Sequence[Env]) -> dict[str, str]:
        """Measure what each option of each layer loses, and return the formats of least sum by path.

        Raises:
            ConfigError: samples are missing, or weights are not finite.
        """
        if self.ask.sensitivity != "mse" and not samples:
            raise ConfigError(f"allocate: {self.ask.sensitivity} needs calibration data; pass calibration tokens")
        question = Question(parts, samples, frozenset(self.bits), tuple(parse(text) for text in self.ask.options))
        for number in range(parts.total):
            part = parts.part(number)
            check_finite(part.graph, question.layers(part))
        scores = SENSITIVITIES[self.ask.sensitivity](question)
        layers = {path: Options(tuple(scores[path]), row) for path, row in self.bits.items()}
        found = allocate(layers, self.most, self.ties, self.fixed)
        return {path: self.ask.options[option] for path, option in found.items()}


def allocated(plan: Plan, parts: Parts, samples: Sequence[Env]) -> Plan:
    """Return a plan in which each layer's format is chosen; layers that are tied choose alike.

    Raises:
        ConfigError: no choice is within the bits, samples are missing, or a method has no format.
    """
    choice = Choice.of(plan, parts)
    return plan if choice is None else plan.with_formats(choice.made(parts, samples))


def _fixed(ask: Allocation, paths: Mapping[str, object]) -> dict[str, int]:
    """Return the options that are given, by path; the first glob that matches wins."""
    for glob, _ in ask.fixed:
        if not any(matches(path, glob) for path in paths):
            raise ConfigError(f"allocate.fixed {glob!r}: matches no layer{suggest(glob, paths)}")
    given = {path: next((text for glob, text in ask.fixed if matches(path, glob)), None) for path in paths}
    return {path: ask.options.index(text) for path, text in given.items() if text is not None}


def _check_budget(
    ask: Allocation,
    bits: Mapping[str, tuple[int, ...]],
    ties: Sequence[Sequence[str]],
    fixed: Mapping[str, int],
    weights: int,
) -> None:
    """Refuse a budget that no choice meets, before anything is measured."""
    free = {path: Options(tuple(map(float, row)), row) for path, row in bits.items()}  # what costs least, loses least
    least = allocate(free, float(sum(map(max, bits.values()))), ties, fixed)
    total = sum(bits[path][option] for path, option in least.items())
    if total > ask.bits * weights:
        raise ConfigError(
            f"allocate.bits {ask.bits:g}: no choice has so few; the least is {total / weights:.4f} stored bits a weight"
        )
