"""Trials per CPU second of a study: 8 categorical axes of 12 values, journal file, an evaluation that costs nothing.

``random`` is our fast path. ``tpe`` is the multivariate sampler through our study beside Optuna alone with the same
sampler, axes and storage, both in this run. ``at 2000`` is the rate of 100 trials after 1,900 others: it falls where
something walks through all trials at each one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bench.common import Figure, cpu_seconds, main
from mase.explore.space import Axis, Point, Space
from mase.explore.study import Study
from mase.explore.trial import Objective

VALUES = tuple(f"format{k}" for k in range(12))
SPACE = Space(tuple(Axis(f"layer{i}.format", VALUES) for i in range(8)))
SCORE = {value: float(k) for k, value in enumerate(VALUES)}
SHORT, LATE, LONG = 500, 1900, 2000


def loss(point: Point) -> dict[str, float]:
    """Cost microseconds."""
    return {"loss": sum((SCORE[str(value)] - i) ** 2 for i, value in enumerate(point.values()))}


def busy_loss(point: Point) -> dict[str, float]:
    """Cost 4 ms of CPU."""
    end = time.process_time() + 4e-3
    while time.process_time() < end:
        pass
    return loss(point)


@contextmanager
def journal() -> Iterator[Path]:
    """Give the path of a journal in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "study.journal"


def our_study(path: Path) -> Study:
    """Make our study on a journal."""
    return Study.create(SPACE, (Objective("loss"),), path)


def our_rate(strategy: str, trials: int, evaluate: Callable[[Point], dict[str, float]] = loss) -> float:
    """Return trials per CPU second of a whole study."""
    with journal() as path:
        start = cpu_seconds()
        our_study(path).optimize(evaluate, trials, strategy=strategy)
        return trials / (cpu_seconds() - start)


def our_late_rate(strategy: str) -> float:
    """Return trials per CPU second behind ``LATE`` others, the resume not counted."""
    times: list[float] = []

    with journal() as path:
        our_study(path).optimize(loss, LATE, strategy="random")
        our_study(path).optimize(loss, LONG, strategy=strategy, callback=lambda _: times.append(cpu_seconds()))
    return (len(times) - 1) / (times[-1] - times[0])


def optuna_study(path: Path) -> optuna.Study:
    """Make Optuna's study on a journal, with the sampler settings that ours has."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=False, seed=0)
    return optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), sampler=sampler)


def objective(trial: optuna.Trial) -> float:
    """Ask Optuna for each axis and score as ours does."""
    return loss(Point((axis.name, trial.suggest_categorical(axis.name, VALUES)) for axis in SPACE.axes))["loss"]


def optuna_rate() -> float:
    """Return trials per CPU second of Optuna alone."""
    with journal() as path:
        start = cpu_seconds()
        optuna_study(path).optimize(objective, SHORT)
        return SHORT / (cpu_seconds() - start)


def optuna_late_rate() -> float:
    """Return trials per CPU second of Optuna alone behind the same ``LATE`` random trials."""
    with journal() as path, journal() as other:
        study = optuna_study(path)
        distributions: dict[str, BaseDistribution] = {axis.name: CategoricalDistribution(VALUES) for axis in SPACE.axes}
        for trial in our_study(other).optimize(loss, LATE, strategy="random"):
            record = optuna.trial.create_trial(
                params=dict(trial.point), distributions=distributions, value=trial.metrics["loss"]
            )
            study.add_trial(record)
        start = cpu_seconds()
        study.optimize(objective, LONG - LATE)
        return (LONG - LATE) / (cpu_seconds() - start)


def measure() -> list[Figure]:
    """Return the rates."""
    ours, theirs = our_rate("tpe", SHORT), optuna_rate()
    ours_late, theirs_late = our_late_rate("tpe"), optuna_late_rate()
    unit = "trials/CPU s"
    return [
        Figure("study_random_rate", our_rate("random", SHORT), unit, at_least=400),
        Figure("study_random_rate_at_2000", our_late_rate("random"), unit, at_least=400),
        Figure("study_random_rate_4ms_evaluation", our_rate("random", SHORT, busy_loss), unit, at_least=120),
        Figure("study_nsga2_rate", our_rate("nsga2", SHORT), unit),
        Figure("study_tpe_rate", ours, unit),
        Figure("study_tpe_rate_optuna_alone", theirs, unit),
        Figure("study_tpe_share", ours / theirs, "x Optuna alone", at_least=0.6),
        Figure("study_tpe_rate_at_2000", ours_late, unit),
        Figure("study_tpe_rate_at_2000_optuna_alone", theirs_late, unit),
        Figure("study_tpe_share_at_2000", ours_late / theirs_late, "x Optuna alone", at_least=0.6),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
