"""Which trials are worth keeping: non-dominated sets, hypervolume, the cheapest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

from mase.errors import ConfigError, UnknownName
from mase.explore.trial import Constraint, Objective, Trial

Losses = NDArray[np.float64]  # [trials, objectives], less is better


def losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Losses:
    """Return the objectives of each trial as losses, shape [trials, objectives]."""
    rows = [[o.sign * trial.metrics[o.name] for o in objectives] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(objectives))


def front_indices(values: Losses) -> list[int]:
    """Return the indices of the rows that no other row dominates, ascending; of equal rows the first.

    Args:
        values: losses, shape [n, objectives].
    """
    kept: list[int] = []
    best = np.empty((0, values.shape[1]))
    for i in np.lexsort((np.arange(len(values)), *values.T[::-1])):  # what dominates a row stands before it
        if not np.any(np.all(best <= values[i], axis=1)):
            kept.append(int(i))
            best = np.vstack([best, values[i]])
    return sorted(kept)


def front(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> tuple[Trial, ...]:
    """Return the feasible trials that none other dominates, in the order given; of equal ones the first."""
    feasible = [trial for trial in trials if trial.feasible(constraints)]
    return tuple(feasible[i] for i in front_indices(losses(feasible, objectives)))


def hypervolume(values: Losses, reference: Sequence[float]) -> float:
    """Return the volume that the rows dominate below a reference point; rows beyond it count nothing.

    Args:
        values: losses, shape [n, objectives].
        reference: worst loss of interest, one an objective.
    """
    bound = np.asarray(reference, dtype=np.float64)
    inside = values[np.all(values <= bound, axis=1)]
    return float(compute_hypervolume(inside, bound))


def eps_front_indices(values: Losses, eps: Sequence[float]) -> list[int]:
    """Return a thinned front, indices ascending: of rows that differ by noise alone it keeps one.

    Space is cut into boxes of side ``eps``; only boxes that no other box dominates keep a row, and each the one that is
    nearest to its best corner, the first of equally near ones.

    Args:
        values: losses, shape [n, objectives].
        eps: side of a box, one an objective, above 0; twice the standard deviation of a noisy metric is usual.

    Raises:
        ConfigError: a side is not above 0.

    Source: Laumanns et al., Combining Convergence and Diversity in Evolutionary Multiobjective Optimization, 2002.
    """
    sides = np.asarray(eps, dtype=np.float64)
    if np.any(sides <= 0):
        raise ConfigError(f"eps {list(eps)}: each must be above 0")
    boxes = np.floor(values / sides)
    distance = np.linalg.norm(values / sides - boxes, axis=1)
    nearest = sorted(range(len(values)), key=lambda i: (distance[i], i))
    return sorted(nearest[k] for k in front_indices(boxes[nearest]))


def select(trials: Sequence[Trial], feasible: Sequence[Constraint], cheapest: str) -> Trial:
    """Return the trial with the least of one metric among those that meet bounds on others; of equals the first.

    Raises:
        ConfigError: there is no trial, an unknown metric, or no trial meets all bounds; then the text names the one
            that misses least.
    """
    if not trials:
        raise ConfigError("select: the study has no trials")
    for name in (cheapest, *(c.metric for c in feasible)):
        if name not in trials[0].metrics:
            raise UnknownName("select: metric", name, trials[0].metrics)
    allowed = [trial for trial in trials if trial.feasible(feasible)]
    if not allowed:
        bounds = " and ".join(map(str, feasible))
        raise ConfigError(f"select: none of {len(trials)} trials has {bounds}{_nearest(trials, feasible)}")
    return min(allowed, key=lambda trial: (trial.metrics[cheapest], trial.number))


def _nearest(trials: Sequence[Trial], bounds: Sequence[Constraint]) -> str:
    def missed(trial: Trial) -> float:
        return sum(max(0.0, c.violation(trial.metrics)) / (abs(c.bound) or 1.0) for c in bounds)

    best = min(trials, key=lambda trial: (missed(trial), trial.number))
    found = ", ".join(f"{c.metric} = {best.metrics[c.metric]:g}" for c in bounds)
    return f"; the nearest is trial {best.number} with {found}"
