from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mase.errors import ConfigError, UnknownName
from mase.explore.choice import Design, Table, Tables, sensitivity, solve, sweep
from mase.explore.space import Axis, Point, Space
from tests.explore.evaluators import SMALL, WIDTHS, bowl

LAYERS = Space(tuple(Axis(f"layer{i}", (2, 4, 6, 8)) for i in range(6)))
EXACT = 0.0  # gap


def tables(seed: int, space: Space = LAYERS, sweep_over: str = "bits") -> Tables:
    """Damage falls and cost grows with the position of a value, by random steps."""
    rng = np.random.default_rng(seed)

    def rising(scale: float) -> Table:
        return {a.name: tuple((scale * np.cumsum(rng.random(len(a.values)))).tolist()) for a in space.axes}

    damage = {name: tuple(reversed(figures)) for name, figures in rising(3e-4).items()}
    sums = {"bits": rising(5e5), "lut": rising(2e3)}
    return Tables(damage, sums, {"interval": rising(100.0)}, sweep_over)


def measured(space: Space, given_tables: Tables, point: Point) -> Design:
    """Add the tables up in plain Python."""

    def figures(table: Table) -> list[float]:
        return [table[a.name][a.position(point[a.name])] for a in space.axes if a.name in point and a.name in table]

    costs = {name: sum(figures(table)) for name, table in given_tables.sums.items()}
    costs |= {name: max(figures(table)) for name, table in given_tables.peaks.items()}
    return Design(point, sum(figures(given_tables.damage)), costs)


def brute_force(space: Space, given_tables: Tables, caps: dict[str, float]) -> Design | None:
    designs = (measured(space, given_tables, point) for point in space.points())
    allowed = [d for d in designs if all(d.costs[name] <= cap for name, cap in caps.items())]
    return min(allowed, key=lambda d: d.damage, default=None)


def capped(base: Tables, caps: dict[str, float]) -> Tables:
    return Tables(base.damage, base.sums, base.peaks, base.sweep, caps)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_optimum_of_six_layers_with_four_values(seed: int) -> None:
    base = tables(seed)
    middle = measured(LAYERS, base, LAYERS.point(LAYERS.size // 2)).costs
    caps = {"bits": middle["bits"], "lut": 1.2 * middle["lut"], "interval": 1.5 * middle["interval"]}
    found, expected = solve(LAYERS, capped(base, caps), EXACT), brute_force(LAYERS, base, caps)
    assert found is not None
    assert expected is not None
    assert found.point == expected.point
    assert found.damage == pytest.approx(expected.damage, rel=1e-12)  # summed in another order
    assert found.costs == pytest.approx(expected.costs, rel=1e-12)


@given(st.integers(0, 10_000), st.integers(0, SMALL.size - 1))
def test_ties_and_conditions_are_obeyed(seed: int, index: int) -> None:
    base = tables(seed, SMALL)
    caps = {"bits": 1.001 * measured(SMALL, base, SMALL.point(index)).costs["bits"]}
    found, expected = solve(SMALL, capped(base, caps), EXACT), brute_force(SMALL, base, caps)
    assert found is not None
    assert expected is not None
    assert found.damage == pytest.approx(expected.damage, rel=1e-5)  # the tie-break may pay 1e-6 of the damage
    assert found.costs["bits"] <= caps["bits"] * (1 + 1e-6)


def test_caps_that_leave_nothing_give_nothing() -> None:
    assert solve(LAYERS, capped(tables(0), {"bits": 1.0})) is None
    assert sweep(LAYERS, capped(tables(0), {"interval": 0.001})) == ()


def test_of_equal_damage_the_cheaper_wins() -> None:
    space = Space((Axis("a", ("dear", "cheap")),))
    found = solve(space, Tables({"a": (1.0, 1.0)}, {"lut": {"a": (9.0, 3.0)}}))
    assert found is not None
    assert found.point["a"] == "cheap"


@pytest.mark.parametrize("resource", ["bits", "interval"])
def test_the_sweep_is_the_front_at_its_budgets(resource: str) -> None:
    base = tables(7, sweep_over=resource)
    designs = sweep(LAYERS, base, 9, EXACT)
    costs = [design.costs[resource] for design in designs]
    damages = [design.damage for design in designs]
    assert len(designs) >= 4
    assert costs == sorted(set(costs))
    assert damages == sorted(set(damages), reverse=True)
    every = [measured(LAYERS, base, point) for point in LAYERS.points()]
    assert costs[0] == pytest.approx(min(d.costs[resource] for d in every))
    assert damages[-1] == pytest.approx(min(d.damage for d in every))
    for cost, damage in zip(costs, damages, strict=True):
        assert damage == pytest.approx(min(d.damage for d in every if d.costs[resource] <= cost), rel=1e-5)


def test_the_sweep_keeps_to_the_caps() -> None:
    base = tables(2)
    cap = 0.7 * measured(LAYERS, base, LAYERS.point(LAYERS.size - 1)).costs["bits"]
    designs = sweep(LAYERS, capped(base, {"bits": cap, "interval": 200.0}), 5)
    assert len(designs) >= 2
    assert all(d.costs["bits"] <= cap * (1 + 1e-6) and d.costs["interval"] <= 200.0 for d in designs)


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Eight of these 78 programs make HiGHS 1.12 print a line of its own."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weight, cost = rng.lognormal(0, 1.5, 50), rng.lognormal(0, 1, 50)
        space = Space(tuple(Axis(f"layer{i}", (2, 4, 6, 8)) for i in range(50)))
        damage = {f"layer{i}": [weight[i] * 4.0**-w for w in (2, 4, 6, 8)] for i in range(50)}
        latency = {f"layer{i}": [cost[i] * w for w in (2, 4, 6, 8)] for i in range(50)}
        sweep(space, Tables(damage, {"latency": latency}))
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("", "")


def test_sensitivity_moves_one_axis_at_a_time() -> None:
    base = SMALL.parse({"a.width": 8, "b.width": 8, "c.width": 8, "kind": "int"})
    found = sensitivity(SMALL, bowl, base, "loss")
    assert found.keys() == {"a.width", "b.width", "kind"}  # block is inactive, c.width follows b.width
    assert found["a.width"] == pytest.approx([2.0**-w - 2.0**-8 for w in WIDTHS])
    assert found["b.width"] == pytest.approx([2 * (2.0**-w - 2.0**-8) for w in WIDTHS])
    assert found["kind"] == pytest.approx((0.2, 0.0, -0.06))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Tables({}), ConfigError, "no resource"),
        (lambda: Tables({}, {"lut": {}}, {"lut": {}}), ConfigError, "'lut' is in sums and in peaks"),
        (lambda: Tables({}, {"lut": {}}, sweep="luts"), UnknownName, "did you mean lut"),
        (lambda: Tables({}, {"lut": {}}, caps={"dsp": 1.0}), UnknownName, "unknown name 'dsp'"),
        (
            lambda: solve(LAYERS, Tables({"layer9": (1.0,)}, {"lut": {}})),
            UnknownName,
            "damage: axis: unknown name 'layer9'",
        ),
        (
            lambda: solve(LAYERS, Tables({}, {"lut": {"layer0": (1.0,)}})),
            ConfigError,
            "lut: axis 'layer0' has 4 values, not 1",
        ),
        (lambda: solve(LAYERS, Tables({"layer0": (1, 2, 3, np.nan)}, {"lut": {}})), ConfigError, "not finite"),
        (lambda: sweep(LAYERS, tables(0), 1), ConfigError, "1 steps; at least 2"),
    ],
)
def test_what_is_wrong_is_said(make: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()  # type: ignore[operator]
