"""Choose one value an axis by integer programming, from tables of additive damage and cost.

The model is separable: damage and summed resources add up over the axes, a peak resource is that of the worst axis.
Under it the choice is exact; how well it fits is for the real evaluation of the designs to say.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mase.errors import ConfigError, ToolError, UnknownName
from mase.explore.evaluator import Evaluate
from mase.explore.space import Point, Space

Table = Mapping[str, Sequence[float]]  # axis name -> one figure a value; an axis that is absent counts nothing
Row = NDArray[np.float64]  # one figure a binary variable: values of the first free axis, then of the second, ...
TIE_BREAK = 1e-6  # weight of the cost beside the damage: of equal damage the cheaper design wins
SLACK = 1e-6  # relative violation of a cap that the solver's arithmetic may leave


@dataclass(frozen=True)
class Tables:
    """Hold what every value of every axis does to the design.

    Args:
        damage: what is minimised, such as the loss of accuracy when this axis alone takes this value.
        sums: resources that add up over the axes, such as stored bits or LUT.
        peaks: resources of which the largest counts, such as the interval of a dataflow pipeline in cycles; no figure
            below zero.
        sweep: the resource whose budget is swept; the first of sums and peaks by default.
        caps: budget by resource, in the unit of its table.

    Raises:
        ConfigError: no resource, a resource in both groups, or a cap or sweep of an unknown one.
    """

    damage: Table
    sums: Mapping[str, Table] = field(default_factory=dict)
    peaks: Mapping[str, Table] = field(default_factory=dict)
    sweep: str = ""
    caps: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        resources = [*self.sums, *self.peaks]
        if not resources:
            raise ConfigError("tables: there is no resource; give sums or peaks")
        if len(set(resources)) < len(resources):
            raise ConfigError(f"tables: {sorted(set(self.sums) & set(self.peaks))[0]!r} is in sums and in peaks")
        object.__setattr__(self, "sweep", self.sweep or resources[0])
        for name in (self.sweep, *self.caps):
            if name not in resources:
                raise UnknownName("tables: resource", name, resources)


@dataclass(frozen=True)
class Design:
    """Hold a chosen point and what the tables say of it."""

    point: Point
    damage: float
    costs: Mapping[str, float]


def solve(space: Space, tables: Tables, gap: float = 1e-4) -> Design | None:
    """Return the design of least damage within the caps, the cheaper in ``tables.sweep`` of equal ones.

    Args:
        space: ties and conditions are obeyed; an inactive axis does and costs nothing.
        tables: see there.
        gap: relative gap to the optimum at which the solver may stop.

    Returns:
        The design, or None where the caps leave none.

    Raises:
        ConfigError: a table does not fit the space.
        ToolError: the solver failed.
    """
    return _Model(space, tables).solve(tables.caps, gap)


def sweep(space: Space, tables: Tables, steps: int = 13, gap: float = 1e-4) -> tuple[Design, ...]:
    """Return designs along the trade of damage against ``tables.sweep``, the cheapest first, none dominated.

    The budget goes from the least possible to that of the least damage, in equal steps; a budget that the design of the
    step before already meets is not solved again. Empty where the caps leave no design.

    Args:
        space: see ``solve``.
        tables: likewise.
        steps: budgets, at least 2.
        gap: likewise.
    """
    if steps < 2:
        raise ConfigError(f"sweep: {steps} steps; at least 2 are needed")
    model = _Model(space, tables)
    best = model.solve(tables.caps, gap)
    cheapest = model.cheapest(tables.caps, gap)
    if best is None or cheapest is None:
        return ()
    low, high = cheapest.costs[tables.sweep], best.costs[tables.sweep]
    designs = [best]
    for budget in np.linspace(high, low, steps)[1:]:
        if designs[-1].costs[tables.sweep] <= budget:
            continue
        found = model.solve({**tables.caps, tables.sweep: float(budget)}, gap)  # within the cap, as best is
        designs.append(found or cheapest)
    return _rising(designs, tables.sweep)


def sensitivity(space: Space, evaluate: Evaluate, base: Point, metric: str) -> dict[str, tuple[float, ...]]:
    """Return by how much a metric grows when one free axis alone leaves ``base``: the damage table.

    Axes that are inactive in ``base`` get no entry. Needs one evaluation a value that differs from the base.

    Args:
        space: of ``base``.
        evaluate: gives ``metric``, less of it being better.
        base: usually the most precise design.
        metric: name.
    """
    digits, origin = space.digits(base), evaluate(base)[metric]

    def change(axis: int, digit: int) -> float:
        if digit == digits[axis]:
            return 0.0
        moved = space.from_digits([*digits[:axis], digit, *digits[axis + 1 :]])
        return evaluate(moved)[metric] - origin

    return {
        axis.name: tuple(change(i, digit) for digit in range(len(axis.values)))
        for i, axis in enumerate(space.free)
        if axis.name in base
    }


class _Model:
    """Binary variables, one a value of each free axis, and the rows that make them a point of the space."""

    def __init__(self, space: Space, tables: Tables) -> None:
        self._space, self._tables = space, tables
        lengths = [len(axis.values) for axis in space.free]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._damage = self._row("damage", tables.damage)
        self._sums = {name: self._row(name, table) for name, table in tables.sums.items()}
        self._peaks = {name: self._row(name, table, np.maximum) for name, table in tables.peaks.items()}

    def solve(self, caps: Mapping[str, float], gap: float) -> Design | None:
        """Minimise damage, then the swept resource."""
        cost = self._sums.get(self._tables.sweep, np.zeros_like(self._damage))
        return self._minimise(_scaled(self._damage) + TIE_BREAK * _scaled(cost), caps, gap)

    def cheapest(self, caps: Mapping[str, float], gap: float) -> Design | None:
        """Minimise the swept resource, then damage."""
        name = self._tables.sweep
        if name in self._sums:
            return self._minimise(_scaled(self._sums[name]) + TIE_BREAK * _scaled(self._damage), caps, gap)
        levels = [float(figure) for figure in np.unique(self._peaks[name]) if figure <= caps.get(name, np.inf)]
        first = bisect.bisect_left(
            levels, x=True, key=lambda level: self.solve({**caps, name: level}, gap) is not None
        )  # the least peak is one of the table's figures, and what a level allows, a higher one allows too
        return self.solve({**caps, name: levels[first]}, gap) if first < len(levels) else None

    def _minimise(self, objective: Row, caps: Mapping[str, float], gap: float) -> Design | None:
        upper = np.ones_like(objective)
        for name, row in self._peaks.items():  # a peak within its cap means every chosen value within it
            upper[row > caps.get(name, np.inf)] = 0.0
        limits = [(self._sums[name], cap) for name, cap in caps.items() if name in self._sums]
        scales = [float(np.abs(row).max()) or 1.0 for row, _ in limits]  # the solver's tolerances are absolute
        constraints = [self._choices()]
        if limits:
            rows = np.stack([row / scale for (row, _), scale in zip(limits, scales, strict=True)])
            constraints.append(
                LinearConstraint(rows, ub=[cap / scale for (_, cap), scale in zip(limits, scales, strict=True)])
            )
        with _silent():
            result = milp(
                objective,
                integrality=np.ones_like(objective),
                bounds=Bounds(0.0, upper),
                constraints=constraints,
                options={"mip_rel_gap": gap},
            )
        if result.status == 2:
            return None
        if result.x is None:
            raise ToolError(f"choice by integer programming: the solver failed ({result.message})")
        return self._design(result.x, caps)

    def _choices(self) -> LinearConstraint:
        """Return the rows that say: an axis takes one value where it is active, none where it is not."""
        rows, columns, entries, totals = [], [], [], []
        for i, rule in enumerate(self._space.parents):
            own = range(self._starts[i], self._starts[i + 1])
            switches = [] if rule is None else [self._starts[rule[0]] + digit for digit in sorted(rule[1])]
            rows += [i] * (len(own) + len(switches))
            columns += [*own, *switches]
            entries += [1.0] * len(own) + [-1.0] * len(switches)
            totals.append(1.0 if rule is None else 0.0)
        matrix = csr_array((entries, (rows, columns)), shape=(len(totals), self._starts[-1]))
        return LinearConstraint(matrix, lb=totals, ub=totals)

    def _design(self, x: Row, caps: Mapping[str, float]) -> Design:
        chosen = x > 0.5
        digits = [int(np.argmax(chosen[start:stop])) for start, stop in itertools.pairwise(self._starts)]
        costs = {name: float(row[chosen].sum()) for name, row in self._sums.items()}
        costs |= {name: float(row[chosen].max()) for name, row in self._peaks.items()}
        for name, row in self._sums.items():
            assert name not in caps or costs[name] <= caps[name] + SLACK * max(abs(caps[name]), np.abs(row).max())
        return Design(self._space.from_digits(digits), float(self._damage[chosen].sum()), costs)

    def _row(self, what: str, table: Table, join: np.ufunc = np.add) -> Row:
        """Lay a table out over the variables; what tied axes do is joined in the one that stands for them."""
        row = np.zeros(self._starts[-1])
        position = dict(zip(self._space.names, self._space.columns, strict=True))
        for name, figures in table.items():
            if name not in position:
                raise UnknownName(f"tables: {what}: axis", name, self._space.names)
            start, stop = self._starts[position[name]], self._starts[position[name] + 1]
            if len(figures) != stop - start:
                raise ConfigError(f"tables: {what}: axis {name!r} has {stop - start} values, not {len(figures)}")
            if not np.all(np.isfinite(figures)):
                raise ConfigError(f"tables: {what}: axis {name!r} has a figure that is not finite")
            row[start:stop] = join(row[start:stop], figures)
        return row


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what C code prints meanwhile: HiGHS 1.12 lets a debugging line through whatever its options say."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    screen = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(screen, 1)
        os.close(screen)


def _scaled(row: Row) -> Row:
    return row / (float(np.abs(row).max()) or 1.0)


def _rising(designs: Sequence[Design], resource: str) -> tuple[Design, ...]:
    """Order by cost and leave out designs that cost more and damage no less."""
    kept: list[Design] = []
    for design in sorted(designs, key=lambda d: (d.costs[resource], d.damage)):
        if not kept or design.damage < kept[-1].damage:
            kept.append(design)
    return tuple(kept)
