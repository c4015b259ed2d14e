"""A recipe as plain data, such as ``[awq, {gptq: {format: int4g128a}}]``, and which layers it is for (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mase import config
from mase.calib.layers import Place
from mase.doors.json_text import first, repr_of
from mase.errors import ConfigError, FormatError, suggest
from mase.formats import parse
from mase.ptqconfig import AllocateSection
from passes.ptq.base import METHODS, Method, name_of

FORMATS = "format", "branch"  # fields that are text forms
NOTHING = "the model has no linear layers and no experts in its blocks; nothing is quantized"
Recipe = Any  # what a configuration says: a name, a mapping of one name to fields, a Method, or a list of these


def recipe(data: Recipe, where: str = "recipe", seed: int | None = None) -> tuple[Method, ...]:
    """Return the methods of a recipe.

    Args:
        data: a list of names, of mappings of one name to the method's fields, or of methods; one of these alone too.
        seed: of methods that have one and are not told theirs.

    Raises:
        ConfigError: an unknown method or field, or a value that a field cannot have.
    """
    steps = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    if not steps:
        raise ConfigError(f"{where}: found an empty list; allowed is one method or more")
    return tuple(_method(step, f"{where}[{i}]", seed) for i, step in enumerate(steps))


def _method(step: Recipe, where: str, seed: int | None) -> Method:
    if isinstance(step, Method):
        return step
    if isinstance(step, str):
        return _made(step, {}, where, seed)
    if isinstance(step, Mapping) and len(step) == 1:
        name, given = next(iter(step.items()))
        if given is None or isinstance(given, Mapping):
            return _made(str(name), dict(given or {}), where, seed)
    raise ConfigError(f"{where}: found {repr_of(step)}; allowed is a method's name, or one name with its fields")


def _made(name: str, given: dict[str, Any], where: str, seed: int | None) -> Method:
    if name not in METHODS:
        raise ConfigError(f"{where}: unknown method {name[:60]!r}{suggest(name, METHODS)}")
    cls = METHODS[name]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # every method is a dataclass
    for field in given:
        if field not in known:
            raise ConfigError(f"{where}.{name}.{field}: unknown field{suggest(str(field), known)}")
    if seed is not None and "seed" in known:
        given.setdefault("seed", seed)
    return _checked(cls, given, f"{where}.{name}")


def _checked(cls: type[Method], given: Mapping[str, Any], where: str) -> Method:
    """Return a method once every field is of its type, and formats are forms; it checks the ranges itself."""
    try:
        made: Method = TypeAdapter(cls).validate_python(dict(given))
        for text in (given[name] for name in FORMATS if name in given):
            parse(text)
    except ValidationError as fault:
        raise ConfigError(f"{where}.{first(fault)}") from None
    except FormatError as fault:
        raise ConfigError(f"{where}: {fault}") from None
    return made


def told(methods: Sequence[Method]) -> list[dict[str, dict[str, Any]]]:
    """Return methods as plain data, with every field written out."""
    return [{name_of(m): {f.name: getattr(m, f.name) for f in fields(m)}} for m in methods]  # type: ignore[arg-type]


def check_order(methods: Sequence[Method], where: str) -> None:
    """Refuse steps that make no sense behind each other; those without a stage may stand anywhere.

    Raises:
        ConfigError: names the step, and what it needs before it.
    """
    before: list[Method] = []
    for method in methods:
        if fault := _fault(method, before):
            raise ConfigError(f"{where}: {fault}")
        before.append(method)
    if all(method.folds for method in methods):
        names = ", ".join(name_of(method) for method in methods)
        raise ConfigError(f"{where}: {names} leaves all weights in float; add a quantizer, such as rtn")


def _fault(method: Method, before: Sequence[Method]) -> str:
    """Return what is wrong with a step behind others, or nothing."""
    name, stages = name_of(method), {other.stage: name_of(other) for other in before}
    free = "" in stages
    if method.stage in ("fold", "quantizer") and (late := stages.get("quantizer", stages.get("branch"))):
        both = f"{late} and {name} both quantize; allowed is one quantizer"
        return both if method.stage == "quantizer" else f"{name} comes behind {late}; a fold must come before it"
    if method.folds and (lower := next((other for other in before if other.lowers), None)):
        return f"{name} comes behind {name_of(lower)}, which lowers ranges; put it before, or say clip: false"
    if method.folds and (other := next((other for other in before if other.rounds_inputs), None)):
        return f"{name} comes behind {name_of(other)}, which rounds what layers read; put it before"
    if method.stage == "branch" and not free and "quantizer" not in stages:
        return f"{name} corrects what a quantizer leaves; put a step such as rtn before it"
    if method.branches and (other := next((other for other in before if other.branches), None)):
        return f"{name_of(other)} and {name} both give a low-rank branch; allowed is one"
    if method.stage == "tuning" and not free and not any(other.branches for other in before):
        return f"{name} trains low-rank branches; put a step such as qlora or qera before it"
    return ""


@dataclass(frozen=True)
class Allocation:
    """Ask for a format of each layer, of several, by what the layer loses.

    Args:
        options: formats by text form. bits: most stored bits a weight, the mean of all layers that are quantized.
        sensitivity: what a layer loses: ``mse``, ``output`` or ``delta_loss`` (passes/ptq/allocation.py).
        fixed: glob of layers -> the option that they have; the first match wins. charged: count bits as AutoScheme
            does, with a zero point for groups of integers that have none.
    """

    options: tuple[str, ...]
    bits: float
    sensitivity: str = "delta_loss"
    fixed: tuple[tuple[str, str], ...] = ()
    charged: bool = False

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str = "allocate") -> Allocation:
        """Read it from plain data.

        Raises:
            ConfigError: a field is unknown, missing or impossible; says which.
        """
        section = config.section(AllocateSection, data, where)
        for i, text in enumerate(section.options):
            try:
                parse(text)
            except FormatError as fault:
                raise ConfigError(f"{where}.options[{i}]: {fault}") from None
        if len(set(section.options)) < len(section.options):
            twice = next(text for text in section.options if section.options.count(text) > 1)
            raise ConfigError(f"{where}.options: {twice} stands there twice")
        for glob, text in section.fixed.items():
            if text not in section.options:
                raise ConfigError(
                    f"{where}.fixed {glob!r}: {text!r} is not an option; allowed are {', '.join(section.options)}"
                )
        fixed = tuple(section.fixed.items())
        return cls(tuple(section.options), section.bits, section.sensitivity, fixed, section.charged)


@dataclass(frozen=True)
class Plan:
    """Say what is done with which layer.

    Args:
        recipe: of all layers of blocks. overrides: glob of paths -> methods; the first match wins.
        skip: globs of layers that stay in float. also: globs of layers outside blocks that are quantized too.
        ties: names of layers of one module that must have the same recipe, such as ``(q_proj, k_proj, v_proj)``.
        allocate: how formats are chosen; None where they stand in the recipe.
    """

    recipe: tuple[Method, ...]
    overrides: tuple[tuple[str, tuple[Method, ...]], ...] = ()
    skip: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    allocate: Allocation | None = None

    def __post_init__(self) -> None:
        check_order(self.recipe, "recipe")
        for glob, methods in self.overrides:
            check_order(methods, f"overrides {glob!r}")

    @classmethod
    def of(
        cls,
        data: Recipe,
        overrides: Mapping[str, Any] | None = None,
        skip: Sequence[str] = (),
        also: Sequence[str] = (),
        ties: Sequence[Sequence[str]] = (),
        seed: int | None = None,
        allocate: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Read a plan from plain data.

        Args:
            overrides: glob -> a recipe, or a mapping of fields that replace those of the methods that have them.
            allocate: see :class:`Allocation`.

        Raises:
            ConfigError: see :func:`recipe`; or no method has a field of an override.
        """
        methods = recipe(data, "recipe", seed)
        others = []
        for glob, given in (overrides or {}).items():
            where = f"overrides {glob!r}"
            changed = isinstance(given, Mapping) and not (len(given) == 1 and next(iter(given)) in METHODS)
            others.append((glob, _changed(methods, given, where) if changed else recipe(given, where, seed)))
        ask = None if allocate is None else Allocation.of(allocate)
        made = cls(methods, tuple(others), tuple(skip), tuple(also), tuple(tuple(tie) for tie in ties), ask)
        for i, text in enumerate(() if ask is None else ask.options):
            for chain in (methods, *(chain for _, chain in others)):
                _in_format(chain, text, f"allocate.options[{i}]")
        return made

    def with_formats(self, formats: Mapping[str, str]) -> Plan:
        """Return the plan with the format of some layers given, and no more to choose."""
        given = {path: _in_format(self._chain(path), text, "allocate") for path, text in formats.items()}
        return replace(self, overrides=(*given.items(), *self.overrides), allocate=None)

    @property
    def all_methods(self) -> tuple[Method, ...]:
        """Every method that some layer may get."""
        return (*self.recipe, *(m for _, methods in self.overrides for m in methods))

    @property
    def calibrates(self) -> bool:
        """Whether a step needs calibration data."""
        chooses = self.allocate is not None and self.allocate.sensitivity != "mse"
        return chooses or any(method.calibrates for method in self.all_methods)

    @property
    def blockwise(self) -> bool:
        """Whether a step needs what the float blocks give."""
        return any(method.blockwise for method in self.all_methods)

    def methods(self, path: str, outside: bool = False) -> tuple[Method, ...]:
        """Return the steps of a layer; none where it stays in float."""
        skipped = any(matches(path, glob) for glob in self.skip)
        if skipped or (outside and not any(matches(path, glob) for glob in self.also)):
            return ()
        return self._chain(path)

    def _chain(self, path: str) -> tuple[Method, ...]:
        return next((methods for glob, methods in self.overrides if matches(path, glob)), self.recipe)

    def check_model(self, inside: Sequence[Place], outside: Sequence[Place] = ()) -> None:
        """Refuse a plan that a model is not for; see :meth:`check`.

        Raises:
            ConfigError: nothing is left to quantize, or a step is not for its layers.
        """
        self.check([place.path for place in inside], [place.path for place in outside])
        steps: dict[Method, list[Place]] = {}
        for place in (*inside, *outside):
            for method in self.methods(place.path, place in outside):
                steps.setdefault(method, []).append(place)
        if not steps:
            raise ConfigError("skip: all layers stay in float; leave one to quantize" if inside else NOTHING)
        for method, layers in steps.items():
            method.check(layers)

    def check(self, inside: Sequence[str], outside: Sequence[str] = ()) -> None:
        """Refuse globs that match no layer, ties of layers that do not exist, and tied layers of unlike recipes.

        Raises:
            ConfigError: names the glob and the nearest path, or the two layers.
        """
        every = [*inside, *outside]
        globs = [("overrides", glob, every) for glob, _ in self.overrides]
        globs += [("skip", glob, every) for glob in self.skip] + [("also", glob, list(outside)) for glob in self.also]
        for what, glob, paths in globs:
            if not any(matches(path, glob) for path in paths):
                raise ConfigError(f"{what} {glob!r}: matches no layer{suggest(glob, paths)}")
        ends = {path.rpartition(".")[2] for path in inside}
        for tie in self.ties:
            for name in tie:
                if name not in ends:
                    raise ConfigError(f"ties {name!r}: no layer has this name{suggest(name, ends)}")
        for first_path, *others in self.tied([path for path in inside if self.methods(path)]):
            for path in others:
                if self.methods(path) != self.methods(first_path):
                    raise ConfigError(f"ties: {first_path} and {path} are tied, and have different recipes")

    def tied(self, paths: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return which of some layers must have the same format: those of one module that a tie names."""
        found = []
        for tie in self.ties:
            modules = dict.fromkeys(path.rpartition(".")[0] for path in paths if path.rpartition(".")[2] in tie)
            for module in modules:
                group = tuple(f"{module}.{name}" for name in tie if f"{module}.{name}" in paths)
                found += [group] if len(group) > 1 else []
        return tuple(found)


def matches(path: str, glob: str) -> bool:
    """Tell whether a glob means a layer; the path of an expert, such as ``mlp.down[5]``, means itself."""
    return path == glob or fnmatchcase(path, glob)


def _in_format(methods: Sequence[Method], text: str, where: str) -> tuple[Method, ...]:
    """Return methods with the format of the weights replaced; branches keep theirs.

    Raises:
        ConfigError: no step that quantizes has a format, or one cannot serve this one.
    """
    if not any("format" in _fields(method) for method in methods if method.stage not in ("fold", "branch")):
        names = ", ".join(name_of(method) for method in methods)
        raise ConfigError(f"allocate: no quantizer of {names} has a field format; put one that has, such as gptq")
    try:
        return tuple(m if m.stage == "branch" else _replaced(m, {"format": text}, where) for m in methods)
    except ConfigError as fault:
        raise ConfigError(str(fault) if str(fault).startswith(where) else f"{where}: {fault}") from None


def _fields(method: Method) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]  # a dataclass


def _replaced(method: Method, given: Mapping[str, Any], where: str) -> Method:
    """Return a method with those fields replaced that it has."""
    own = _fields(method)
    changes = {name: value for name, value in given.items() if name in own}
    return _checked(type(method), {**own, **changes}, where) if changes else method


def _changed(methods: Sequence[Method], given: Mapping[str, Any], where: str) -> tuple[Method, ...]:
    """Return methods with some fields replaced, each in the methods that have it."""
    known = {f.name for m in methods for f in fields(m)}  # type: ignore[arg-type]
    for field in given:
        if field not in known:
            raise ConfigError(f"{where}.{field}: no method of the recipe has this field{suggest(str(field), known)}")
    return tuple(_replaced(method, given, where) for method in methods)
