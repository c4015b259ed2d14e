from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import pytest

from mase.errors import ConfigError, UnknownName
from mase.explore.evaluator import EvaluatorSpec
from mase.explore.space import Axis, Point, Space
from mase.explore.study import Study
from mase.explore.trial import Constraint, Objective, Trial
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl


class Counting:
    """Evaluate the bowl and remember every point asked; stop like Ctrl-C before evaluation number ``stop``."""

    def __init__(self, stop: int | None = None) -> None:
        self.points: list[Point] = []
        self._stop = stop

    def __call__(self, point: Point) -> Mapping[str, float]:
        if len(self.points) == self._stop:
            raise KeyboardInterrupt
        self.points.append(point)
        return bowl(point)


def create(storage: Path | str | None, **changes: object) -> Study:
    arguments: dict[str, object] = {"space": SMALL, "objectives": OBJECTIVES, "storage": storage, "seed": 5}
    return Study.create(**(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_a_stored_study_reads_back_equal(journal: Path) -> None:
    done = create(journal).optimize(bowl, 15, strategy="random")
    assert create(journal).trials == done
    assert [trial.number for trial in done] == list(range(15))


def test_every_metric_is_kept_not_only_objectives(journal: Path) -> None:
    create(journal).optimize(bowl, 3, strategy="random")
    assert all(trial.metrics.keys() == {"loss", "bits", "unused"} for trial in create(journal).trials)


def test_one_record_a_trial(journal: Path) -> None:
    study = create(journal)
    before = len(journal.read_text().splitlines())
    study.optimize(bowl, 10, strategy="tpe")
    assert len(journal.read_text().splitlines()) == before + 10


def test_optuna_alone_reads_the_journal(journal: Path) -> None:
    done = create(journal, constraints=(Constraint("bits", "<=", 9.0),)).optimize(bowl, 12, strategy="random")
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    theirs = optuna.load_study(study_name="mase", storage=optuna.storages.JournalStorage(backend))
    for trial, record in zip(done, theirs.trials, strict=True):
        assert record.values == [trial.metrics["loss"], trial.metrics["bits"]]
        assert record.user_attrs == trial.metrics
        assert record.params["a.width"] == trial.point["a.width"]
        assert record.constraints == {"bits <= 9": trial.metrics["bits"] - 9.0}


def test_a_loaded_study_goes_on_with_text(journal: Path) -> None:
    done = create(journal).optimize(bowl, 8, strategy="random")
    loaded = Study.load(journal)
    assert loaded.space == SMALL
    assert (loaded.objectives, loaded.seed, loaded.trials) == (OBJECTIVES, 5, done)
    assert loaded.optimize(bowl, 11, strategy="random")[:8] == done


def test_two_studies_share_a_journal_by_name(journal: Path) -> None:
    create(journal, name="one").optimize(bowl, 3, strategy="random")
    assert create(journal, name="two").trials == ()
    assert len(create(journal, name="one").trials) == 3


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
def test_other_storages_give_the_same_trials(storage: str, journal: Path) -> None:
    place = None if storage == "memory" else f"sqlite:///{journal.with_suffix('.db')}"
    expected = create(journal).optimize(bowl, 12, strategy="tpe")
    assert create(place).optimize(bowl, 12, strategy="tpe") == expected
    if place is not None:
        assert create(place).trials == expected


# ---- how many are evaluated ------------------------------------------------------------------------------------------


def test_trials_are_counted_in_total(journal: Path) -> None:
    create(journal).optimize(bowl, 6, strategy="random")
    again = Counting()
    assert len(create(journal).optimize(again, 6, strategy="random")) == 6
    assert again.points == []
    assert len(create(journal).optimize(again, 9, strategy="random")) == 9
    assert len(again.points) <= 3


def test_a_point_is_evaluated_once_and_counted_each_time() -> None:
    tiny, counting = Space((Axis("a", (1, 2)),)), Counting()

    def evaluate(point: Point) -> dict[str, float]:
        counting.points.append(point)
        return {"loss": float(str(point["a"]))}

    done = create(None, space=tiny, objectives=(Objective("loss"),)).optimize(evaluate, 12, strategy="random")
    assert len(done) == 12
    assert len(counting.points) == 2
    assert [trial.reused for trial in done[:2]] == [None, None]
    assert all(trial.reused == (0 if trial.point["a"] == 1 else 1) for trial in done[2:])


def test_stored_points_are_not_evaluated_again_by_another_strategy(journal: Path) -> None:
    create(journal).optimize(bowl, 20, strategy="random")
    grid = Counting()
    create(journal).optimize(grid, SMALL.size, strategy="grid")
    assert not {trial.point for trial in create(journal).trials[:20]} & set(grid.points)


def test_callback_sees_every_new_trial_after_it_is_stored(journal: Path) -> None:
    create(journal).optimize(bowl, 2, strategy="random")
    seen: list[Trial] = []

    def look(trial: Trial) -> None:
        assert Study.load(journal).trials[-1].number == trial.number
        seen.append(trial)

    create(journal).optimize(bowl, 5, strategy="random", callback=look)
    assert [trial.number for trial in seen] == [2, 3, 4]


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_the_number_of_trials_costs_nothing_before_they_run(strategy: str) -> None:
    counting = Counting(stop=3)
    with pytest.raises(KeyboardInterrupt):
        create(None).optimize(counting, 10**20, strategy=strategy)
    assert len(counting.points) == 3


# ---- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("stop", [0, 1, 7, 11])
def test_what_was_stopped_resumes_to_the_same_trials(strategy: str, stop: int, journal: Path) -> None:
    expected = create(None).optimize(bowl, 14, strategy=strategy)
    with pytest.raises(KeyboardInterrupt):
        create(journal).optimize(Counting(stop), 14, strategy=strategy)
    assert len(create(journal).trials) >= stop
    assert create(journal).optimize(bowl, 14, strategy=strategy) == expected


KILLED = """
import os, signal, sys
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl
from mase.explore.study import Study
calls = []
def evaluate(point):
    calls.append(point)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(point)
Study.create(SMALL, OBJECTIVES, sys.argv[1], seed=5).optimize(evaluate, 14, strategy="tpe")
"""


def test_kill_9_loses_only_the_trial_in_flight(journal: Path) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(journal)], cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(create(journal).trials) >= 7
    resumed = create(journal).optimize(bowl, 14, strategy="tpe")
    assert resumed == create(None).optimize(bowl, 14, strategy="tpe")


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_half_written_record_is_cut_off_and_its_trial_run_again(cut: int, journal: Path) -> None:
    expected = create(journal).optimize(bowl, 6, strategy="random")
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    assert create(journal).trials == expected[:5]
    assert create(journal).optimize(bowl, 6, strategy="random") == expected
    assert journal.read_bytes().count(b"\n") == whole.count(b"\n")


def test_a_second_writer_is_refused_while_the_first_runs(journal: Path) -> None:
    def evaluate(point: Point) -> Mapping[str, float]:
        with pytest.raises(ConfigError, match="another process is writing this study"):
            create(journal).optimize(bowl, 3, strategy="random")
        return bowl(point)

    assert len(create(journal).optimize(evaluate, 2, strategy="random")) == 2
    assert len(create(journal).optimize(bowl, 3, strategy="random")) == 3


def test_what_another_process_wrote_meanwhile_is_seen(journal: Path) -> None:
    early, counting = create(journal), Counting()
    expected = create(journal).optimize(bowl, 6, strategy="random")
    assert early.optimize(counting, 6, strategy="random") == expected
    assert counting.points == []


def test_a_locked_database_is_one_clear_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    study = create(url + "?timeout=0.1")
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"s\.db\?timeout=0\.1: .*database is locked"):
            study.optimize(bowl, 3, strategy="random")


def test_a_full_disk_is_one_clear_line_and_loses_nothing_before(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = create(journal)
    expected = study.optimize(bowl, 3, strategy="random")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"study\.journal: No space left on device"):
        study.optimize(bowl, 5, strategy="random")
    assert create(journal).trials[:3] == expected


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"loss": 1.0, "bit": 2.0}, r"trial 0 at Point\(a\.width=2, .*no metric 'bits'; did you mean bit\?"),
        ({"loss": float("nan"), "bits": 2.0}, r"trial 0 at Point\(a\.width=2, .*metric 'loss' is NaN"),
        ({"loss": "low", "bits": 2.0}, "metric 'loss' is 'low', which is not a number"),
        ({"loss": 1.0, "bits": 2.0}, "no metric 'lut'"),
    ],
)
def test_a_missing_or_wrong_metric_is_named_with_its_point(metrics: dict[str, float], text: str, journal: Path) -> None:
    study = create(journal, constraints=(Constraint("lut", "<=", 1.0),) if "lut" in text else ())
    with pytest.raises(ConfigError, match=text):
        study.optimize(lambda point: metrics, 5, strategy="random")
    assert Study.load(journal).trials == ()


def test_a_metric_of_the_first_trial_may_not_go_missing(journal: Path) -> None:
    def evaluate(point: Point) -> dict[str, float]:
        return {k: v for k, v in bowl(point).items() if k != "unused" or point["a.width"] == 2}

    with pytest.raises(ConfigError, match=r"trial 1 at .* no metric 'unused'"):
        create(journal).optimize(evaluate, 5, strategy="random")


def test_an_infinite_metric_is_allowed(journal: Path) -> None:
    create(journal).optimize(lambda point: {"loss": float("inf"), "bits": 1.0}, 3, strategy="random")
    assert create(journal).trials[0].metrics["loss"] == float("inf")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"space": Space((Axis("a", (1, 2)),))}, "another space"),
        ({"seed": 6}, "another seed: 5, now 6"),
        ({"origin": "b"}, "was made from other weights or data"),
        ({"objectives": OBJECTIVES[:1]}, "another objectives"),
        ({"constraints": (Constraint("bits", "<=", 3.0),)}, "another constraints"),
    ],
)
def test_a_stored_study_is_not_continued_as_another_one(changes: dict[str, object], text: str, journal: Path) -> None:
    create(journal)
    with pytest.raises(ConfigError, match=text):
        create(journal, **changes)


def text_file(path: Path) -> str:
    path.write_text("hello\nworld\n")
    return str(path)


def folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def under_a_file(path: Path) -> str:
    path.write_text("")
    return str(path / "study.journal")


def foreign_study(path: Path) -> str:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name="mase", storage=storage)
    return str(path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (text_file, "this is not a study, or it is damaged"),
        (folder, "this is not a file"),
        (under_a_file, r"File exists \(.*/storage\)"),
        (foreign_study, "study 'mase' was made by another program"),
        (
            lambda path: "postgresql://me:secret@nowhere/db",
            r"me:\*\*\*@nowhere/db: the driver .* pip install psycopg2-binary",
        ),
        (lambda path: f"sqlite:///{path}/missing/s.db", "cannot be opened"),
    ],
)
def test_an_unusable_storage_is_one_clear_line(make: Callable[[Path], str], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        create(make(tmp_path / "storage"))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_loading_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Study.load(tmp_path / "study.journal")
    assert list(tmp_path.iterdir()) == []


def test_loading_another_name_lists_what_there_is(journal: Path) -> None:
    create(journal)
    with pytest.raises(ConfigError, match="holds no study 'mlp'; it has: mase"):
        Study.load(journal, "mlp")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"objectives": ()}, "no objectives"),
        ({"objectives": (Objective("loss"), Objective("loss", "maximize"))}, "objective 'loss' is given twice"),
        (
            {"constraints": (Constraint("bits", "<=", 1), Constraint("bits", "<=", 1))},
            "'bits <= 1' is given",
        ),
        ({"seed": -1}, "seed -1; allowed: 0 and more"),
    ],
)
def test_an_impossible_study_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        create(None, **changes)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"strategy": "randon"}, "strategy: unknown name 'randon'; did you mean random"),
        ({"workers": 0}, "0 workers; at least 1"),
        ({"workers": 2}, "2 workers on local need an EvaluatorSpec"),
        ({"cluster": "slurm"}, "cluster: unknown name 'slurm'"),
        ({"enqueue": [{"a.width": 2}]}, "axis 'b.width' is missing"),
    ],
)
def test_a_wrong_argument_of_optimize_is_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        create(None).optimize(bowl, 3, **({"strategy": "random"} | arguments))  # type: ignore[arg-type]


def test_a_wrong_direction_or_operator_is_refused() -> None:
    with pytest.raises(ConfigError, match="direction 'up'; allowed: minimize, maximize"):
        Objective("loss", "up")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="operator '<'; allowed: <=, >="):
        Constraint("loss", "<", 1.0)  # type: ignore[arg-type]


def test_optuna_says_nothing(journal: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.enable_default_handler()
    level = logging.getLogger("optuna").level
    create(journal).optimize(bowl, 12, strategy="tpe")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("optuna").level == level


# ---- evaluators by name ----------------------------------------------------------------------------------------------


def test_an_evaluator_by_name_gets_text_points() -> None:
    done = create(None).optimize(EvaluatorSpec("tests.explore.evaluators:make_bowl"), 6, strategy="random")
    assert done == create(None).optimize(bowl, 6, strategy="random")


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("bowl", "write module:function"),
        ("tests.nowhere:bowl", "No module named 'tests.nowhere'"),
        ("tests.explore.evaluators:make_bowel", "did you mean make_bowl"),
    ],
)
def test_an_evaluator_that_does_not_exist_is_named(factory: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        EvaluatorSpec(factory).build()


def test_an_evaluator_configuration_must_be_json() -> None:
    with pytest.raises(ConfigError, match="is not JSON"):
        EvaluatorSpec("tests.explore.evaluators:make_bowl", {"path": Path()})


def test_unknown_strategy_error_lists_names() -> None:
    with pytest.raises(UnknownName, match=r"allowed: .*nsga2, nsga3, random"):
        create(None).optimize(bowl, 3, strategy="zzz")
