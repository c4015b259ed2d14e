"""The least sum of tables that share variables, exactly: one variable after the other is eliminated.

To eliminate a variable, all tables that have it are added, and the least of the sum over it becomes a new table of the
variables that are left. No combination is ever left out. The work is that of the greatest sum: in a chain that of two
variables, in a graph that of as many as there are branches open at once.

Source: R. Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence 113 (1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
Scope = tuple[int, ...]  # variables, ascending

MOST = 1 << 24  # numbers in one sum


@dataclass(frozen=True, eq=False)
class Factor:
    """A table: the variables that it depends on, and the cost of each of their values, an axis a variable."""

    scope: Scope
    cost: Costs


@dataclass(frozen=True)
class Least:
    """The choice that costs least.

    Args:
        values: index of the value of each variable. exact: False if some values were left out.
    """

    cost: float
    values: tuple[int, ...]
    exact: bool


@dataclass(frozen=True)
class Step:
    """Eliminate one variable.

    Args:
        variable: which. others: those in the sum with it. axis: of the variable in the sum.
        parts: what is added: the number of a table (those that were given, then the result of each step), and its shape
            in the sum.
    """

    variable: int
    others: Scope
    axis: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Plan:
    """Steps that eliminate all variables.

    Args:
        widest: variables of the greatest sum. entries: numbers in it. rest: tables that are single numbers at the end.
    """

    steps: tuple[Step, ...]
    widest: Scope
    entries: int
    rest: tuple[int, ...]


def least(sizes: Sequence[int], factors: Sequence[Factor], most: int = MOST) -> Least:
    """Return the values at which the sum of all tables is least; where several are, the search decides by index.

    If a sum would have more than ``most`` numbers, every second value of its largest variable is left out (the first
    one stays), until all sums fit.

    Args:
        sizes: number of values of each variable.
    """
    scopes, tables = tuple(factor.scope for factor in factors), [factor.cost for factor in factors]
    plan = _plan(tuple(sizes), scopes)
    if plan.entries <= most:
        return Least(*_solved(plan, tables), True)
    kept = [np.arange(size) for size in sizes]
    while plan.entries > most:
        largest = max(plan.widest, key=lambda v: kept[v].size)
        kept[largest] = kept[largest][::2]
        plan = _plan(tuple(values.size for values in kept), scopes)
    cost, places = _solved(plan, [f.cost[np.ix_(*(kept[v] for v in f.scope))] for f in factors])
    return Least(cost, tuple(int(values[i]) for values, i in zip(kept, places, strict=True)), False)


def _solved(plan: Plan, tables: list[Costs]) -> tuple[float, tuple[int, ...]]:
    """Return the least sum, and the index of each variable at which it is."""
    best = []
    for step in plan.steps:
        first, *others = (tables[i].reshape(shape) for i, shape in step.parts)
        total = sum(others, first)
        best.append(total.argmin(step.axis))  # the first one of equals
        tables.append(total.min(step.axis))
    found = [0] * len(plan.steps)
    for step, index in zip(reversed(plan.steps), reversed(best), strict=True):
        found[step.variable] = int(index[tuple([found[v] for v in step.others])])
    return sum(float(tables[i]) for i in plan.rest), tuple(found)


@lru_cache(maxsize=512)
def _plan(sizes: tuple[int, ...], scopes: tuple[Scope, ...]) -> Plan:
    """Return the steps; tables of few variables are added first."""
    live = dict(enumerate(scopes))
    steps = list[Step]()
    widest: tuple[int, Scope] = (0, ())
    for variable in _order(sizes, scopes):
        numbers = sorted((i for i, scope in live.items() if variable in scope), key=lambda i: (len(live[i]), i))
        scope = tuple(sorted({v for i in numbers for v in live[i]} | {variable}))
        others = tuple(v for v in scope if v != variable)
        parts = tuple((i, tuple(sizes[v] if v in live[i] else 1 for v in scope)) for i in numbers)
        steps.append(Step(variable, others, scope.index(variable), parts))
        widest = max(widest, (math.prod(sizes[v] for v in scope), scope))
        for i in numbers:
            del live[i]
        live[len(scopes) + len(steps) - 1] = others
    return Plan(tuple(steps), widest[1], widest[0], tuple(live))


def _order(sizes: Sequence[int], scopes: Sequence[Scope]) -> list[int]:
    """Return the order of elimination: first what joins no variables that no table has joined, then the least sums.

    A chain is eliminated from its first variable to its last.
    """
    near: dict[int, set[int]] = {v: set() for v in range(len(sizes))}
    for scope in scopes:
        for v in scope:
            near[v] |= set(scope) - {v}
    order: list[int] = []
    weights: dict[int, tuple[int, int]] = {}
    while near:
        for v in near.keys() - weights.keys():
            weights[v] = _weight(v, near, sizes)
        chosen = min(near, key=lambda v: (weights[v], v))
        joined = near.pop(chosen)
        for v in joined:
            near[v] |= joined - {v}
            near[v].discard(chosen)
        for v in joined.union(*(near[v] for v in joined), {chosen}):
            weights.pop(v, None)
        order.append(chosen)
    return order


def _weight(variable: int, near: dict[int, set[int]], sizes: Sequence[int]) -> tuple[int, int]:
    """Return what the elimination of a variable costs: 0 where it joins nothing anew, then the size of its sum."""
    joined = near[variable]
    if all(b in near[a] for a, b in combinations(joined, 2)):
        return 0, 0
    return 1, math.prod(sizes[v] for v in (variable, *joined))
