"""Search of number formats for a 16-64-32-32-5 perceptron: trials per CPU second, durable journal storage included.

One axis of 19 formats (those of the quickstart) for each of 9 tensors, 512 evaluation rows. A trial fits formats, runs
the exact integers, and solves the folding for 64 cycles a sample. ``optuna_alone`` has the same axes, sampler, storage,
objectives and constraints, with metrics that cost nothing; ``optuna_evaluated`` calls our evaluator. Every rate is
from a fresh interpreter that has nothing cached; medians of 3, but for the last.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bench.common import Figure, cpu_seconds, in_fresh_process, main
from bench.models import INTERVAL, formats, task
from mase.explore.space import Space
from mase.explore.study import Study
from mase.explore.trial import Constraint, Objective
from mase.flow import LEGAL
from mase.scoring import Scorer, Target, space

HERE = "bench.search"
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("cost"))  # of a run
TRIALS, ROUNDS = 500, 3
TOLERANCE = 0.01  # accuracy that a design may lose
Metrics = Mapping[str, float]


def axes() -> Space:
    """Return one axis a tensor."""
    return space(task().graph, formats(), formats())


def constraints() -> tuple[Constraint, ...]:
    """Return those of a run."""
    return Constraint("accuracy", ">=", task().accuracy - TOLERANCE), LEGAL


def scorer() -> Scorer:
    """Return the evaluator of a run, with nothing cached."""
    rows = task().evaluation
    return Scorer(task().graph, rows.x, rows.y, task().samples, Target("xcup", INTERVAL))


def free(point: Mapping[str, object]) -> Metrics:
    """Return metrics that cost nothing: finer formats are more accurate and dearer."""
    order = ranks_of_formats()
    ranks = [order[str(value)] for value in point.values()]
    return {"accuracy": 1.0 - 1.0 / (1 + sum(ranks)), "cost": float(sum(rank * rank for rank in ranks)), "legal": 1.0}


@cache
def ranks_of_formats() -> dict[str, int]:
    """Return the place of each format on its axis."""
    return {text: rank for rank, text in enumerate(formats())}


def our_rate(strategy: str) -> float:
    """Return trials per CPU second of a whole search."""
    found, bounds = axes(), constraints()
    with tempfile.TemporaryDirectory() as folder:
        start = cpu_seconds()
        study = Study.create(found, OBJECTIVES, Path(folder) / "study.journal", constraints=bounds)
        study.optimize(scorer(), TRIALS, strategy=strategy)
        return TRIALS / (cpu_seconds() - start)


def optuna_rate(evaluator: str) -> float:
    """Return trials per CPU second of Optuna with the evaluator ``free`` or ``scorer``."""
    evaluate: Callable[[Mapping[str, object]], Metrics] = free if evaluator == "free" else scorer()
    names, values, bounds = axes().names, formats(), constraints()

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        metrics = evaluate({name: trial.suggest_categorical(name, values) for name in names})
        for bound in bounds:
            trial.set_constraint(str(bound), bound.violation(metrics))
        return tuple(metrics[o.name] for o in OBJECTIVES)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        start = cpu_seconds()
        storage = JournalStorage(JournalFileBackend(str(Path(folder) / "study.journal")))
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=False, seed=0)
        directions = [o.direction for o in OBJECTIVES]
        optuna.create_study(storage=storage, sampler=sampler, directions=directions).optimize(objective, TRIALS)
        return TRIALS / (cpu_seconds() - start)


def measure() -> list[Figure]:
    """Return the rates; peers alternate, so that a busy machine disturbs both."""
    kinds = {"random": ("our_rate", "random"), "tpe": ("our_rate", "tpe"), "optuna_alone": ("optuna_rate", "free")}
    rounds = [{name: float(in_fresh_process(HERE, *call)) for name, call in kinds.items()} for _ in range(ROUNDS)]
    rate = {name: statistics.median(one[name] for one in rounds) for name in kinds}
    share = statistics.median(one["tpe"] / one["optuna_alone"] for one in rounds)
    evaluated = float(in_fresh_process(HERE, "optuna_rate", "scorer"))
    unit = "trials/CPU s"
    return [
        Figure("search_float_accuracy", task().accuracy),
        Figure("search_random_rate", rate["random"], unit, at_least=120),
        Figure("search_tpe_rate", rate["tpe"], unit),
        Figure("search_tpe_rate_optuna_alone", rate["optuna_alone"], unit),
        Figure("search_tpe_rate_optuna_evaluated", evaluated, unit),
        Figure("search_tpe_share", share, "x Optuna alone", at_least=0.6),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
