from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mase.errors import ConfigError, ToolError
from mase.explore.evaluator import EvaluatorSpec
from mase.explore.study import Study
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl
from tests.processes import alive, children

ROOT = Path(__file__).parents[2]
MODULE = "tests.explore.evaluators"


def optimize(
    factory: str, storage: Path | None = None, config: dict[str, object] | None = None, **arguments: object
) -> Study:
    study = Study.create(SMALL, OBJECTIVES, storage, seed=5)
    spec = EvaluatorSpec(f"{MODULE}:{factory}", config or {})
    study.optimize(spec, 12, **({"strategy": "random", "workers": 2} | arguments))  # type: ignore[arg-type]
    return study


def test_two_workers_give_the_trials_of_one(tmp_path: Path) -> None:
    expected = Study.create(SMALL, OBJECTIVES, None, seed=5).optimize(bowl, 12, strategy="random")
    found = optimize("make_bowl", tmp_path / "s.journal")
    assert [(t.number, t.point, t.metrics) for t in found.trials] == [(t.number, t.point, t.metrics) for t in expected]
    assert Study.load(tmp_path / "s.journal").trials == found.trials


def test_tpe_proposes_for_two_workers() -> None:
    assert len(optimize("make_bowl", strategy="tpe", options={"startup": 5}).trials) == 12


def test_a_killed_worker_is_replaced_and_its_trial_runs_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    study = optimize("make_suicidal", config={"log": str(log), "deadly": 8, "times": 1})
    started = Counter(log.read_text().splitlines())
    assert [trial.number for trial in study.trials] == list(range(12))
    assert all(count == (2 if line.startswith("8 ") else 1) for line, count in started.items())
    assert any(line.startswith("8 ") for line in started)
    assert all(trial.metrics == bowl(trial.point) for trial in study.trials)


def test_a_trial_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    log, journal = tmp_path / "log", tmp_path / "s.journal"
    log.touch()
    with pytest.raises(ToolError, match=r"trial \d+: its worker died 3 times \(exit code -9\)"):
        optimize("make_suicidal", journal, {"log": str(log), "deadly": 8, "times": 99})
    assert all(trial.point["a.width"] != 8 for trial in Study.load(journal).trials)


def test_a_refusal_in_a_worker_is_the_users_error_here() -> None:
    with pytest.raises(ConfigError, match=r"trial \d: layer fc1: no such layer"):
        optimize("make_refusing")


def test_a_bug_in_a_worker_shows_its_traceback_here() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)failed in a worker.*evaluators\.py.*ZeroDivisionError: planted"):
        optimize("make_buggy")


def test_a_metric_that_is_no_number_is_named_here() -> None:
    with pytest.raises(ConfigError, match=r"trial \d at Point\(.*metric 'loss' is 'low', which is not a number"):
        optimize("make_wordy")


def test_a_factory_that_does_not_exist_is_named_by_the_workers() -> None:
    with pytest.raises(ConfigError, match="did you mean make_bowl"):
        optimize("make_bowel")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install mase-dse\[ray\]"):
        optimize("make_bowl", cluster="ray")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_trials_of_one_process() -> None:
    expected = Study.create(SMALL, OBJECTIVES, None, seed=5).optimize(bowl, 12, strategy="random")
    assert [t.metrics for t in optimize("make_bowl", cluster="ray").trials] == [t.metrics for t in expected]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("seconds", [0.0, 0.05], ids=["while they start", "while they work"])
def test_workers_whose_parent_is_killed_are_gone_at_once_and_say_nothing(tmp_path: Path, seconds: float) -> None:
    log = tmp_path / "log"
    code = (
        "from tests.explore.test_workers import optimize\n"
        f"print('ready', flush=True)\noptimize('make_sleepy', config={{'log': {str(log)!r}}})\n"
    )
    said = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=said, stderr=said, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    end = time.monotonic() + 60
    while len(workers := children(parent.pid)) < 2 or (seconds and not log.exists()):
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(seconds)
    parent.kill()
    out, err = parent.communicate(timeout=5)  # ends only when the last of the workers has closed them
    assert (out, err) == ("", "")
    end = time.monotonic() + 2  # a process closes its files a moment before it is gone
    while any(alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(alive(worker) for worker in workers)
