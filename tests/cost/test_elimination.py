"""Sums of tables that share variables: no combination is cheaper, and values are left out where sums are large."""

from __future__ import annotations

import math
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest

from mase.cost.elimination import Factor, least


def drawn(rng: Random, variables: int) -> tuple[list[int], list[Factor]]:
    """Return small tables of whole numbers, some of them infinite, over random variables; each is in one at least."""
    sizes = [rng.randint(1, 4) for _ in range(variables)]
    scopes = [(v,) for v in range(variables)]
    scopes += [tuple(sorted(rng.sample(range(variables), rng.randint(1, min(3, variables))))) for _ in range(variables)]
    costs = np.random.default_rng(rng.randrange(1 << 30))
    factors = []
    for scope in scopes:
        cost = costs.integers(0, 9, [sizes[v] for v in scope]).astype(np.float64)
        factors.append(Factor(scope, np.where(costs.random(cost.shape) < 0.1, np.inf, cost)))
    return sizes, factors


def cost_of(values: tuple[int, ...], factors: list[Factor]) -> float:
    return sum(float(factor.cost[tuple(values[v] for v in factor.scope)]) for factor in factors)


def test_no_combination_is_cheaper() -> None:
    rng, impossible = Random(3), 0
    for _ in range(200):
        sizes, factors = drawn(rng, rng.randint(1, 6))
        found = least(sizes, factors)
        best = min(cost_of(values, factors) for values in product(*map(range, sizes)))
        assert found.exact
        assert found.cost == best
        impossible += math.isinf(best)
        assert math.isinf(best) or cost_of(found.values, factors) == best
    assert impossible > 5


def test_a_chain_is_searched_from_its_end() -> None:
    """Of equal sums the last variable has its first value, then the one before it, given the last, and so on."""
    rng = Random(4)
    for _ in range(50):
        sizes = [rng.randint(1, 4) for _ in range(5)]
        tables = [np.random.default_rng(rng.randrange(99)).integers(0, 2, pair) for pair in pairwise(sizes)]
        factors = [Factor((v, v + 1), table.astype(np.float64)) for v, table in enumerate(tables)]
        every = [values[::-1] for values in product(*map(range, sizes[::-1]))]
        best = min(cost_of(values, factors) for values in every)
        assert least(sizes, factors).values == next(v for v in every if cost_of(v, factors) == best)


@pytest.mark.parametrize("most", [1 << 20, 500, 60, 1])
def test_sums_that_are_too_large_leave_values_out(most: int) -> None:
    """All of four variables depend on each other: the sum has 10^4 numbers."""
    rng, sizes = np.random.default_rng(5), [10] * 4
    factors = [Factor((a, b), rng.random((10, 10))) for a in range(4) for b in range(a + 1, 4)]
    found, exact = least(sizes, factors, most), least(sizes, factors)
    assert found.exact == (most >= 10**4)
    assert found.cost == pytest.approx(cost_of(found.values, factors), rel=1e-12)  # sums in another order
    assert found.cost >= exact.cost
    if most == 1:
        assert found.values == (0, 0, 0, 0)
    if found.exact:
        assert found == exact
