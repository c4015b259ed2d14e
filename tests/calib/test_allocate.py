"""Allocation of bits: equal to trying every choice, on drawn problems; budgets, ties and fixed layers are kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mase.calib.allocate import Options, allocate, expert_bits, knapsack
from mase.errors import ConfigError


def drawn(seed: int, layers: int = 7, options: int = 3) -> list[Options]:
    """Return layers of different sizes whose bits have overhead and whose losses may tie."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([64, 96, 128, 1000], layers)
    losses = rng.integers(0, 12, (layers, options)) if seed % 3 == 0 else rng.lognormal(0, 2, (layers, options))
    widths = sorted(rng.choice([1, 2, 3, 4, 6, 8], options, replace=False).tolist())
    bits = [tuple(int(size * w + size // 32 * (16 + w)) for w in widths) for size in sizes]
    return [Options(tuple(map(float, row)), b) for row, b in zip(losses, bits, strict=True)]


def exhaustive(items: Sequence[Options], budget: int, present: Sequence[int] = ()) -> tuple[float, int] | None:
    """Return loss and bits of the best of all choices."""
    choices = np.array(list(itertools.product(*(range(len(item.bits)) for item in items))))
    losses, bits = (
        sum(np.array(getattr(item, name))[choices[:, i]] for i, item in enumerate(items)) for name in ("losses", "bits")
    )
    legal = bits <= budget
    for option in present:
        legal &= (choices == option).any(1)
    return min(zip(losses[legal].tolist(), bits[legal].tolist(), strict=True), default=None)


def scored(items: Sequence[Options], choice: Sequence[int]) -> tuple[float, int]:
    losses = sum(item.losses[o] for item, o in zip(items, choice, strict=True))
    return losses, sum(item.bits[o] for item, o in zip(items, choice, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_equal_to_every_choice_tried(seed: int) -> None:
    items = drawn(seed)
    least, most = (sum(end(item.bits) for item in items) for end in (min, max))
    for share in (0.0, 0.3, 0.7, 1.0):
        budget = round(least + share * (most - least))
        found = knapsack(items, budget)
        best = exhaustive(items, budget)
        assert found is not None and best is not None
        losses, bits = scored(items, found)
        assert losses == pytest.approx(best[0], rel=1e-12)
        assert bits <= budget
    assert knapsack(items, least - 1) is None


@pytest.mark.parametrize("seed", range(60))
def test_experts_equal_every_choice_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts = 6
    frequency, weight = rng.dirichlet(np.ones(experts)), rng.dirichlet(np.ones(experts))
    errors = np.sort(rng.lognormal(0, 1, (experts, 3)), axis=1)[:, ::-1]
    items = [
        Options(tuple(f * w**1.5 * e for e in row), (1, 2, 3))
        for f, w, row in zip(frequency.tolist(), weight.tolist(), errors.tolist(), strict=True)
    ]
    for budget in (9, 12, 15, 17):
        found = expert_bits(frequency.tolist(), weight.tolist(), errors.tolist(), budget)
        best = exhaustive(items, budget, (1, 2))
        assert best is not None
        assert scored(items, [width - 1 for width in found]) == (pytest.approx(best[0], rel=1e-12), best[1])
        assert {2, 3} <= set(found)


@pytest.mark.parametrize("seed", range(20))
def test_ties_and_fixed_layers_equal_every_choice_tried(seed: int) -> None:
    items = drawn(seed)
    layers = {f"l{i}": item for i, item in enumerate(items)}
    ties, fixed = [("l0", "l3", "l5"), ("l1", "l2")], {"l4": 1, "l2": 0}
    budget = sum(item.bits[1] for item in items)
    legal = [
        scored(items, c)
        for c in itertools.product(range(3), repeat=7)
        if c[0] == c[3] == c[5] and c[1] == c[2] == 0 and c[4] == 1
    ]
    found = allocate(layers, budget, ties, fixed)
    best = min(score for score in legal if score[1] <= budget)
    assert scored(items, [found[f"l{i}"] for i in range(7)]) == (pytest.approx(best[0], rel=1e-12), best[1])
    assert found["l0"] == found["l3"] == found["l5"]
    assert (found["l1"], found["l2"], found["l4"]) == (0, 0, 1)


def test_of_equal_losses_the_cheapest() -> None:
    assert knapsack([Options((1.0, 1.0, 1.0), (5, 3, 4))], 9) == (1,)


def test_no_layers_need_no_choice() -> None:
    assert knapsack([], 0) == ()
    assert allocate({}, 10) == {}


def test_a_large_model_takes_a_moment() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2048, 2048), (256, 2048), (256, 2048), (2048, 2048), (5632, 2048), (5632, 2048), (2048, 5632)] * 22
    sizes = [o * i for o, i in shapes]
    items = [
        Options(
            tuple(float(n * 4.0**-w * rng.uniform(0.5, 2)) for w in (2, 3, 4, 8)),
            tuple(n * w + n // 128 * (16 + w) for w in (2, 3, 4, 8)),
        )
        for n in sizes
    ]
    start = time.process_time()
    budget = int(3.3 * sum(sizes))
    found = knapsack(items, budget)
    assert time.process_time() - start < 5
    assert found is not None
    assert 0.999 * budget < scored(items, found)[1] <= budget


THREE = {"q": Options((2.0, 1.0), (4, 8)), "k": Options((2.0, 1.0), (4, 8)), "o": Options((2.0, 1.0, 0.0), (4, 8, 9))}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((11,), "a budget of 11 bits is too small; the least is 12"),
        ((15, (), {"o": 1}), "a budget of 15 bits is too small; the least is 16"),
        ((99, [("q", "kk")]), "no layer is called 'kk'; did you mean k"),
        ((99, [("q", "k"), ("k",)]), "k is in two ties"),
        ((99, [("q", "o")]), "tied layers have different numbers of options"),
        ((99, (), {"v": 0}), "no layer is called 'v'"),
        ((99, (), {"q": 2}), "q is fixed to option 2; it has 2"),
        ((99, [("q", "k")], {"q": 0, "k": 1}), "q, k are tied, and fixed to different options"),
    ],
)
def test_bad_input_is_one_line(arguments: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        allocate(THREE, *arguments)


def test_bad_options_are_one_line() -> None:
    with pytest.raises(ConfigError, match="found 1 losses and 2 costs"):
        Options((1.0,), (1, 2))
    with pytest.raises(ConfigError, match="a loss is not finite"):
        Options((float("nan"),), (1,))
    with pytest.raises(ConfigError, match="4 bits for 4 experts are too few; the least is 7"):
        expert_bits([0.25] * 4, [0.25] * 4, [[3.0, 2.0, 1.0]] * 4, 4)


@pytest.mark.parametrize("budget", [float("nan"), float("inf")])
def test_a_budget_is_a_number(budget: float) -> None:
    with pytest.raises(ConfigError, match=r"^allocation: the budget is (nan|inf) bits; allowed are numbers$"):
        allocate({"a": Options((1.0,), (5,))}, budget)
