"""What a study leaves for others to read: trials.csv and pareto.json. Times stand apart, for they never repeat."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mase.explore.pareto import front
from mase.explore.space import Space, Text
from mase.explore.trial import Constraint, Objective, Trial

SCHEMA = 1


def trial_rows(trials: Sequence[Trial], space: Space, constraints: Sequence[Constraint] = ()) -> list[list[Text]]:
    """Return a table with a header: number, the axes in order, the metrics by name, feasible, reused.

    An inactive axis is an empty cell; ``reused`` is the number of the earlier trial of the same point.
    """
    metrics = sorted({name for trial in trials for name in trial.metrics})
    rows: list[list[Text]] = [["number", *space.names, *metrics, "feasible", "reused"]]
    for trial in trials:
        text = space.text(trial.point)
        rows.append(
            [
                trial.number,
                *(text.get(name, "") for name in space.names),
                *(trial.metrics.get(name, "") for name in metrics),
                int(trial.feasible(constraints)),
                "" if trial.reused is None else trial.reused,
            ]
        )
    return rows


def time_rows(trials: Sequence[Trial]) -> list[list[Text]]:
    """Return a table with a header: number and wall seconds of each evaluation."""
    rows: list[list[Text]] = [["number", "seconds"]]
    rows += [[trial.number, trial.seconds] for trial in trials]
    return rows


def to_csv(rows: Sequence[Sequence[Text]]) -> str:
    """Write a table as CSV; floats so that they read back exactly."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def pareto_json(
    trials: Sequence[Trial], space: Space, objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> dict[str, Any]:  # JSON
    """Return the feasible, non-dominated trials as JSON data, by the first objective, then by number."""
    best = sorted(front(trials, objectives, constraints), key=lambda t: (t.metrics[objectives[0].name], t.number))
    return {
        "schema": SCHEMA,
        "objectives": [{"name": o.name, "direction": o.direction} for o in objectives],
        "constraints": [str(c) for c in constraints],
        "trials": [{"number": t.number, "point": space.text(t.point), "metrics": dict(t.metrics)} for t in best],
    }
