"""Search spaces as data: named axes of finite ordered values, ties and conditions between them. Knows no searcher."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mase.errors import ConfigError, UnknownName

Text = str | int | float  # what JSON and the storage hold as it is; any other value is held as str(value)
SCHEMA = 1


class Point(Mapping[str, Hashable]):
    """Map the name of every active axis to its value; immutable, hashable, equal to any mapping with the same items."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, Hashable] | Iterable[tuple[str, Hashable]]) -> None:
        self._items = dict(items)
        self._hash = hash(frozenset(self._items.items()))

    def __getitem__(self, name: str) -> Hashable:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Point):
            return self._items == other._items
        return isinstance(other, Mapping) and self._items == dict(other)

    def __repr__(self) -> str:
        return "Point(" + ", ".join(f"{name}={value}" for name, value in self._items.items()) + ")"


@dataclass(frozen=True)
class Axis:
    """Name a decision and list its values in order.

    Args:
        name: unique in its space, such as ``linear_1.format``.
        values: at least one; distinct, and distinct as text too.
        group: axes of one group share a value in the uniform designs; the last dotted part of the name by default.

    Raises:
        ConfigError: no name, no value, a repeated, unhashable or not-a-number value, two values with one text.
    """

    name: str
    values: tuple[Hashable, ...]
    group: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("space: an axis needs a name")
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "group", self.group or self.name.rsplit(".", 1)[-1])
        if not self.values:
            raise ConfigError(f"space: axis {self.name!r} has no values; give at least one")
        self._check_distinct()

    def _check_distinct(self) -> None:
        values: set[Hashable] = set()
        texts: set[Text] = set()
        for value in self.values:
            if isinstance(value, float) and math.isnan(value):
                raise ConfigError(f"space: axis {self.name!r} has the value NaN, which equals nothing, itself included")
            text = to_text(_hashable(self.name, value))
            if value in values or text in texts:
                raise ConfigError(f"space: axis {self.name!r} has the value {text!r} twice")
            values.add(value)
            texts.add(text)

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """Return the text form of each value, in order."""
        return tuple(to_text(value) for value in self.values)

    @cached_property
    def ordinal(self) -> bool:
        """Tell whether the values are rising numbers, so that neighbours are alike."""
        numbers = [v for v in self.values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return len(numbers) == len(self.values) and all(a < b for a, b in itertools.pairwise(numbers))

    @cached_property
    def _positions(self) -> dict[Hashable, int]:
        return {value: i for i, value in enumerate(self.values)}

    def position(self, value: Hashable) -> int:
        """Return the index of a value; raise ``ConfigError`` where the axis lacks it."""
        try:
            return self._positions[value]
        except (KeyError, TypeError):
            raise UnknownName(f"space: value of axis {self.name!r}", value, map(str, self.values)) from None


@dataclass(frozen=True)
class Condition:
    """Make an axis active only while another, active axis has one of some values.

    Args:
        axis: the axis that comes and goes.
        on: the axis that decides; declared before ``axis``.
        values: values of ``on`` that switch ``axis`` on.
    """

    axis: str
    on: str
    values: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))


@dataclass(frozen=True)
class Space:
    """Hold every design that a search may visit.

    Points are numbered 0..size-1, the last axis varying fastest. Searchers work on ``digits``: one value index a free
    axis (the first of each tie stands for the others), 0 where the axis is inactive: digits and points are one to one.

    Args:
        axes: at least one, names distinct.
        ties: groups of axis names that always take the same value; their value lists must be equal.
        conditions: at most one an axis; of tied axes the first carries it.

    Raises:
        ConfigError: duplicate axis, tie or condition on an unknown axis or value, unequal values in a tie, a loop.
    """

    axes: tuple[Axis, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        object.__setattr__(self, "ties", tuple(tuple(tie) for tie in self.ties))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        self._check_axes()
        self._check_ties()
        self._check_conditions()

    # ---- what the space is -------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of all axes, tied ones included."""
        return tuple(axis.name for axis in self.axes)

    @cached_property
    def free(self) -> tuple[Axis, ...]:
        """Return the axes that are decided: all but the followers of ties."""
        return tuple(axis for axis in self.axes if self._leaders[axis.name] == axis.name)

    @cached_property
    def size(self) -> int:
        """Return the number of points."""
        return math.prod(sum(self._weights[root]) for root in self._roots)

    def points(self) -> Iterator[Point]:
        """Yield every point once, in order of index."""
        return (self.point(index) for index in range(self.size))

    def point(self, index: int) -> Point:
        """Return the point with a number in 0..size-1."""
        return self.from_digits(self._digits_at(index))

    def index(self, point: Mapping[str, Hashable]) -> int:
        """Return the number of a point; raise ``ConfigError`` where it is not in the space."""
        digits = self.digits(point)

        def rank(axis: int) -> int:
            return sum(self._weights[axis][: digits[axis]]) + number(self._switched_on(axis, digits[axis]))

        def number(axes: Sequence[int]) -> int:
            total = 0
            for axis in axes:
                total = total * sum(self._weights[axis]) + rank(axis)
            return total

        return number(self._roots)

    def sample(self, rng: np.random.Generator) -> Point:
        """Draw each active axis uniformly."""
        return self.from_digits(rng.integers(0, self._lengths).tolist())

    def uniform_points(self) -> tuple[Point, ...]:
        """Return the uniform designs: design k gives all axes of a group the k-th of the values that they share.

        There are as many as the longest list of shared values is long; shorter lists are stepped through more slowly.
        An axis in a group that shares no value steps through its own values.
        """
        shared = self._shared_values()
        count = max(len(values) for values in shared)
        designs = []
        for k in range(count):
            chosen = (values[k * len(values) // count] for values in shared)
            digits = [axis.position(value) for axis, value in zip(self.free, chosen, strict=True)]
            designs.append(self.from_digits(digits))
        return tuple(dict.fromkeys(designs))

    # ---- digits ------------------------------------------------------------------------------------------------------

    def from_digits(self, digits: Sequence[int]) -> Point:
        """Return the point of one value index a free axis; what an inactive axis holds is ignored."""
        active = self._active(digits)
        return Point(
            (axis.name, axis.values[digits[column]])
            for axis, column in zip(self.axes, self.columns, strict=True)
            if active[column]
        )

    def digits(self, point: Mapping[str, Hashable]) -> tuple[int, ...]:
        """Return one value index a free axis, 0 where it is inactive.

        Raises:
            ConfigError: an axis is unknown, missing or inactive, a value is unknown, tied axes differ.
        """
        for name in point:
            if name not in self._leaders:
                raise UnknownName("point: axis", name, self.names)
        digits = tuple(axis.position(point[axis.name]) if axis.name in point else 0 for axis in self.free)
        expected = self.from_digits(digits)
        for name in self.names:
            if expected.get(name) != point.get(name) or (name in expected) != (name in point):
                raise ConfigError(f"point: axis {name!r} {_difference(name, point, expected)}")
        return digits

    # ---- text --------------------------------------------------------------------------------------------------------

    def text(self, point: Mapping[str, Hashable]) -> dict[str, Text]:
        """Return a point with each value in its text form, in order of the axes."""
        return {name: to_text(point[name]) for name in self.names if name in point}

    def parse(self, text: Mapping[str, Text]) -> Point:
        """Return the point that ``text`` describes; raise ``ConfigError`` where it is not in the space."""
        for name in text:
            if name not in self._leaders:
                raise UnknownName("point: axis", name, self.names)
        point = Point((axis.name, _value(axis, text[axis.name])) for axis in self.axes if axis.name in text)
        self.digits(point)
        return point

    def to_json(self) -> dict[str, Any]:  # JSON: nested lists and dictionaries of text
        """Return the space as JSON data, values in their text form."""
        return {
            "schema": SCHEMA,
            "axes": [{"name": a.name, "values": list(a.texts), "group": a.group} for a in self.axes],
            "ties": [list(tie) for tie in self.ties],
            "conditions": [
                {"axis": c.axis, "on": c.on, "values": [to_text(value) for value in c.values]} for c in self.conditions
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:  # JSON, see to_json
        """Build a space whose values are the texts that ``to_json`` wrote."""
        if data.get("schema") != SCHEMA:
            raise ConfigError(f"space: schema version {data.get('schema')!r} cannot be read; this is version {SCHEMA}")
        return cls(
            tuple(Axis(a["name"], tuple(a["values"]), a["group"]) for a in data["axes"]),
            tuple(tuple(tie) for tie in data["ties"]),
            tuple(Condition(c["axis"], c["on"], tuple(c["values"])) for c in data["conditions"]),
        )

    # ---- structure ---------------------------------------------------------------------------------------------------

    @cached_property
    def _by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def _leaders(self) -> dict[str, str]:
        """Name of the axis that decides for each axis: itself, or the first of its tie in order of the axes."""
        leaders = {name: name for name in self.names}
        for tie in self.ties:
            first = min(tie, key=self.names.index)
            leaders.update(dict.fromkeys(tie, first))
        return leaders

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Return for each axis the index of the free axis that decides."""
        position = {axis.name: i for i, axis in enumerate(self.free)}
        return tuple(position[self._leaders[name]] for name in self.names)

    @cached_property
    def parents(self) -> tuple[tuple[int, frozenset[int]] | None, ...]:
        """Return for each free axis the free axis that switches it and the value indices that do, or None."""
        position = {axis.name: i for i, axis in enumerate(self.free)}
        rules: list[tuple[int, frozenset[int]] | None] = [None] * len(self.free)
        for c in self.conditions:
            on = self._by_name[c.on]
            rules[position[c.axis]] = position[self._leaders[c.on]], frozenset(map(on.position, c.values))
        return tuple(rules)

    @cached_property
    def _roots(self) -> tuple[int, ...]:
        return tuple(i for i, rule in enumerate(self.parents) if rule is None)

    @cached_property
    def _lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([len(axis.values) for axis in self.free], dtype=np.int64)

    @cached_property
    def _children(self) -> tuple[tuple[tuple[int, frozenset[int]], ...], ...]:
        children: list[list[tuple[int, frozenset[int]]]] = [[] for _ in self.free]
        for i, rule in enumerate(self.parents):
            if rule is not None:
                children[rule[0]].append((i, rule[1]))
        return tuple(map(tuple, children))

    def _switched_on(self, axis: int, digit: int) -> list[int]:
        return [child for child, digits in self._children[axis] if digit in digits]

    @cached_property
    def _weights(self) -> tuple[tuple[int, ...], ...]:
        """Count, for each free axis and value, the settings of the axes that this value switches on."""
        weights: list[tuple[int, ...]] = [()] * len(self.free)
        for i in reversed(range(len(self.free))):  # an axis stands before those that it switches
            weights[i] = tuple(
                math.prod(sum(weights[child]) for child in self._switched_on(i, digit))
                for digit in range(len(self.free[i].values))
            )
        return tuple(weights)

    def _digits_at(self, index: int) -> list[int]:
        if not 0 <= index < self.size:
            raise ConfigError(f"space: there is no point {index}; allowed: 0..{self.size - 1}")
        digits = [0] * len(self.free)

        def spread(axes: Sequence[int], number: int) -> None:
            for axis in reversed(axes):
                number, rest = divmod(number, sum(self._weights[axis]))
                for digit, weight in enumerate(self._weights[axis]):
                    if rest < weight:
                        digits[axis] = digit
                        spread(self._switched_on(axis, digit), rest)
                        break
                    rest -= weight

        spread(self._roots, index)
        return digits

    def _active(self, digits: Sequence[int]) -> list[bool]:
        active: list[bool] = []
        for rule in self.parents:
            active.append(rule is None or (active[rule[0]] and digits[rule[0]] in rule[1]))
        return active

    def _shared_values(self) -> list[tuple[Hashable, ...]]:
        """For each free axis, the values that all axes of its group have, or its own where there are none."""
        groups: dict[str, list[Axis]] = {}
        for axis in self.free:
            groups.setdefault(axis.group, []).append(axis)
        shared = {
            name: tuple(v for v in axes[0].values if all(v in a._positions for a in axes))
            for name, axes in groups.items()
        }
        return [shared[axis.group] or axis.values for axis in self.free]

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _check_axes(self) -> None:
        if not self.axes:
            raise ConfigError("space: there are no axes; give at least one")
        for name, count in Counter(self.names).items():
            if count > 1:
                raise ConfigError(f"space: axis {name!r} is declared {count} times; a name stands for one axis")

    def _check_ties(self) -> None:
        tied: set[str] = set()
        for i, tie in enumerate(self.ties):
            for name in tie:
                if name not in self._by_name:
                    raise UnknownName(f"space: ties[{i}]: axis", name, self.names)
                if name in tied:
                    raise ConfigError(f"space: ties[{i}]: axis {name!r} is tied twice; write one longer tie")
                if self._by_name[name].values != self._by_name[tie[0]].values:
                    raise ConfigError(f"space: ties[{i}]: {name!r} and {tie[0]!r} are tied but have different values")
                tied.add(name)

    def _check_conditions(self) -> None:
        conditioned: set[str] = set()
        for i, c in enumerate(self.conditions):
            where = f"space: conditions[{i}]"
            for name in (c.axis, c.on):
                if name not in self._by_name:
                    raise UnknownName(f"{where}: axis", name, self.names)
            if self._leaders[c.axis] != c.axis:
                raise ConfigError(
                    f"{where}: {c.axis!r} follows {self._leaders[c.axis]!r} in a tie; put the condition on that axis"
                )
            if c.axis in conditioned:
                raise ConfigError(f"{where}: axis {c.axis!r} has two conditions; one is allowed")
            if self.names.index(self._leaders[c.on]) >= self.names.index(c.axis):
                raise ConfigError(f"{where}: axis {c.on!r} decides over {c.axis!r} and must be declared before it")
            if not c.values:
                raise ConfigError(f"{where}: no values of {c.on!r} given; {c.axis!r} could never be active")
            for value in c.values:
                self._by_name[c.on].position(value)
            conditioned.add(c.axis)


def to_text(value: Hashable) -> Text:
    """Return a value as JSON and the storage hold it: strings and numbers as they are, others as ``str``."""
    return value if isinstance(value, (str, int, float)) else str(value)


def _value(axis: Axis, text: Text) -> Hashable:
    if text not in axis.texts:
        raise UnknownName(f"point: value of axis {axis.name!r}", text, map(str, axis.texts))
    return axis.values[axis.texts.index(text)]


def _hashable(name: str, value: Hashable) -> Hashable:
    try:
        hash(value)
    except TypeError:
        raise ConfigError(f"space: axis {name!r} has the value {value!r}, which cannot be hashed") from None
    return value


def _difference(name: str, point: Mapping[str, Hashable], expected: Point) -> str:
    if name not in point:
        return "is missing"
    if name not in expected:
        return "is inactive here and must be left out"
    return f"is {point[name]}, but the axis that it is tied to is {expected[name]}"
