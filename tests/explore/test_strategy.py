"""Laws that every registered strategy keeps, and what a strategy is built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mase.errors import ConfigError, UnknownName
from mase.explore import strategies
from mase.explore.choice import Tables, sweep
from mase.explore.pareto import hypervolume, losses
from mase.explore.space import Axis, Point, Space
from mase.explore.strategy import STRATEGIES, Problem, build
from mase.explore.study import Study
from mase.explore.trial import Constraint, Objective
from tests.explore.evaluators import OBJECTIVES, SMALL, WIDTHS, bowl

BITS = {axis: tuple(map(float, WIDTHS)) for axis in ("a.width", "b.width", "c.width")}
TABLES = Tables({axis: tuple(2.0**-w for w in WIDTHS) for axis in BITS}, sums={"bits": BITS})
OPTIONS: dict[str, dict[str, Any]] = {  # smaller than the defaults, so that 20 trials reach what a strategy learns
    "tpe": {"startup": 6},
    "gp": {"startup": 18},
    "nsga2": {"population": 6},
    "nsga3": {"population": 6},
    "ilp": {"tables": TABLES},
    "seeded": {"tables": TABLES, "population": 6},
}
CONSTRAINTS = (Constraint("bits", "<=", 20.0),)


def study(path: Path | None, seed: int = 3) -> Study:
    return Study.create(SMALL, OBJECTIVES, path, seed=seed, constraints=CONSTRAINTS)


def points(strategy: str, trials: int, seed: int = 3) -> list[object]:
    return [t.point for t in study(None, seed).optimize(bowl, trials, strategy=strategy, options=OPTIONS.get(strategy))]


def test_registered_name_is_the_file_name() -> None:
    files = {path.stem for path in Path(strategies.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(STRATEGIES) == files


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_points_do_not_depend_on_interruptions(name: str, tmp_path: Path) -> None:
    whole = points(name, 20)
    assert whole
    for count in range(1, 21):  # a new process would know no more than a new Study does
        study(tmp_path / "s.journal").optimize(bowl, count, strategy=name, options=OPTIONS.get(name))
    assert [trial.point for trial in study(tmp_path / "s.journal").trials] == whole


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"grid", "ilp"}))
def test_another_seed_gives_other_points(name: str) -> None:
    assert points(name, 20, seed=3) != points(name, 20, seed=4)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"grid"}))
def test_uniform_designs_come_first(name: str) -> None:
    uniform = SMALL.uniform_points()
    assert tuple(points(name, 12)[: len(uniform)]) == uniform


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"grid"}))
def test_enqueued_points_replace_the_uniform_designs(name: str) -> None:
    asked = [SMALL.point(17), SMALL.point(40)]
    options = OPTIONS.get(name)
    done = study(None).optimize(bowl, 2, strategy=name, options=options, enqueue=asked)
    assert [trial.point for trial in done] == asked


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp"])
def test_learning_beats_chance(name: str) -> None:
    """Mean loss of what is proposed after the start is lower than that of as many random points."""

    def mean_loss(strategy: str) -> float:
        one = Study.create(SMALL, OBJECTIVES[:1], None, seed=1)
        done = one.optimize(bowl, 40, strategy=strategy, options=OPTIONS.get(strategy), enqueue=())
        return sum(trial.metrics["loss"] for trial in done[16:]) / 24

    assert mean_loss(name) < mean_loss("random")


def test_a_constraint_steers() -> None:
    def share(constraints: tuple[Constraint, ...]) -> float:
        one = Study.create(SMALL, OBJECTIVES[:1], None, seed=1, constraints=constraints)
        done = one.optimize(bowl, 60, strategy="tpe", enqueue=())
        return sum(trial.metrics["bits"] <= 12.0 for trial in done[20:]) / 40

    assert share((Constraint("bits", "<=", 12.0),)) > share(()) + 0.3


def test_rough_tables_carry_seeded_to_the_front_of_many_axes() -> None:
    """Thirty unlike layers; the damage in the tables is wrong by a log-normal factor of 0.5, as that of a proxy."""
    rng = np.random.default_rng(0)
    weight, cycles = rng.lognormal(0, 1.5, 30), rng.lognormal(0, 1, 30)
    space = Space(tuple(Axis(f"layer{i}.width", WIDTHS) for i in range(30)))
    objectives = (Objective("loss"), Objective("cycles"))

    def evaluate(point: Point) -> dict[str, float]:
        widths = np.array([float(str(width)) for width in point.values()])
        return {"loss": float(np.log((weight * 4.0**-widths).sum())), "cycles": float((cycles * widths).sum())}

    def tables(factor: np.ndarray) -> Tables:
        damage = {axis.name: [factor[i] * 4.0**-w for w in WIDTHS] for i, axis in enumerate(space.axes)}
        return Tables(damage, {"cycles": {a.name: [cycles[i] * w for w in WIDTHS] for i, a in enumerate(space.axes)}})

    uniform = [evaluate(point) for point in space.uniform_points()]
    reference = [max(m[o.name] for m in uniform) + 0.1 for o in objectives]

    def volume(strategy: str, options: dict[str, Any]) -> float:
        done = Study.create(space, objectives, None).optimize(evaluate, 100, strategy=strategy, options=options)
        return hypervolume(losses(done, objectives), reference)

    best = volume("ilp", {"tables": tables(weight)})
    rough = volume("seeded", {"tables": tables(weight * rng.lognormal(0, 0.5, 30))})
    assert rough >= 0.95 * best
    assert volume("nsga2", {}) < 0.9 * best


def problem(space: Space = SMALL) -> Problem:
    return Problem(space, OBJECTIVES)


def test_an_unknown_strategy_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean nsga2"):
        build("nsga-2", problem(), {})


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="strategy tpe: option: unknown name 'startups'; did you mean startup"):
        build("tpe", problem(), {"startups": 3})


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_an_impossible_option_is_refused_before_the_first_trial(name: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy {name}: .*population_size"):
        build(name, problem(), {"population": 1})


@pytest.mark.parametrize("name", ["ilp", "seeded"])
def test_tables_are_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy {name}: needs option tables"):
        build(name, problem(), {})


def test_random_points_depend_on_seed_and_number_alone() -> None:
    random = build("random", problem(), {})
    assert random.ask(9) == build("random", problem(), {}).ask(9) != random.ask(10)


def test_grid_ends_with_the_space() -> None:
    assert points("grid", 10_000) == list(SMALL.points())


def test_ilp_ends_with_its_designs() -> None:
    done = points("ilp", 10_000)
    assert len(done) == len(set(done))
    assert set(done) == {*SMALL.uniform_points(), *(design.point for design in sweep(SMALL, TABLES))}


def test_gp_without_its_libraries_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match="strategy gp: needs torch and scipy; pip install torch scipy"):
        build("gp", problem(), {})
