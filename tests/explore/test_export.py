from __future__ import annotations

import csv
import io
import json

from mase.explore.export import pareto_json, time_rows, to_csv, trial_rows
from mase.explore.pareto import front
from mase.explore.study import Study
from mase.explore.trial import Constraint, Objective, Trial
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl

BOUND = (Constraint("bits", "<=", 20.0),)


def trials(seed: int = 2) -> tuple[Trial, ...]:
    return Study.create(SMALL, OBJECTIVES, None, seed=seed).optimize(bowl, 30, strategy="random")


def test_rows_hold_points_metrics_and_verdicts() -> None:
    header, first, *rest = trial_rows(trials(), SMALL, BOUND)
    assert header == ["number", *SMALL.names, "bits", "loss", "unused", "feasible", "reused"]
    assert first == [0, 2, 2, 2, "fixed", "", 6.0, bowl(trials()[0].point)["loss"], 1.0, 1, ""]
    assert len(rest) == 29
    assert {row[header.index("feasible")] for row in rest} == {0, 1}


def test_csv_reads_back_exactly_and_repeats_byte_for_byte() -> None:
    rows = trial_rows(trials(), SMALL)
    text = to_csv(rows)
    assert list(csv.reader(io.StringIO(text))) == [[str(cell) for cell in row] for row in rows]
    assert text == to_csv(trial_rows(trials(), SMALL))


def test_times_stand_apart() -> None:
    assert "seconds" not in trial_rows(trials(), SMALL)[0]
    header, first, *_ = time_rows(trials())
    assert header == ["number", "seconds"]
    assert first[0] == 0
    assert float(first[1]) > 0


def test_pareto_holds_the_front_as_json() -> None:
    data = pareto_json(trials(), SMALL, OBJECTIVES, BOUND)
    assert json.loads(json.dumps(data)) == data
    best = front(trials(), OBJECTIVES, BOUND)
    assert {t["number"] for t in data["trials"]} == {t.number for t in best}
    losses = [t["metrics"]["loss"] for t in data["trials"]]
    assert losses == sorted(losses)
    assert SMALL.parse(data["trials"][0]["point"]) in {t.point for t in best}
    assert data["constraints"] == ["bits <= 20"]
    assert data["objectives"][0] == {"name": "loss", "direction": "minimize"}


def test_a_study_without_trials_has_an_empty_front() -> None:
    assert pareto_json((), SMALL, (Objective("loss"),))["trials"] == []
