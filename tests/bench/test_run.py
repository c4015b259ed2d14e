"""The runner finds every bench, and a broken bench or a missed bar cannot pass unseen."""

from __future__ import annotations

from pathlib import Path

from bench.common import Figure
from bench.run import FOLDER, Outcome, bench_names, run_bench, summary

GOOD, BAD = Figure("good", 1, at_least=1).to_json(), Figure("bad", 1, "s", at_least=2).to_json()


def test_quick_benches_come_alone_unless_long_ones_are_asked_for(tmp_path: Path) -> None:
    for name in ("__init__.py", "common.py", "models.py", "run.py", "b.py", "a.py", "long/__init__.py", "long/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert bench_names(tmp_path) == ["a", "b"]
    assert bench_names(tmp_path, long=True) == ["a", "b", "long.c"]


def test_every_bench_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in bench_names(long=True) if f"`{name}`" not in readme] == []


def test_all_good_has_no_problems() -> None:
    assert summary([Outcome("a", 1.0, {"good": GOOD})]) == ({"good": GOOD}, [])


def test_a_missed_bar_is_a_problem() -> None:
    assert summary([Outcome("a", 1.0, {"good": GOOD, "bad": BAD})])[1] == ["a: bad is 1 s, wanted >= 2"]


def test_a_bench_that_breaks_is_a_problem() -> None:
    assert summary([Outcome("a", 1.0, None)]) == ({}, ["a: ended without figures"])


def test_one_name_from_two_benches_is_a_problem() -> None:
    outcomes = [Outcome("a", 1.0, {"good": GOOD}), Outcome("b", 1.0, {"good": GOOD})]
    assert summary(outcomes)[1] == ["b: good was given by another bench too"]


def test_a_bench_that_fails_leaves_the_others_to_run(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "broken.py").write_text("raise SystemExit(3)")
    (tmp_path / "bench" / "works.py").write_text(
        "import json, os, pathlib, sys\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps({'threads': os.environ['OMP_NUM_THREADS']}))"
    )
    assert [run_bench(name, tmp_path).figures for name in ("broken", "works")] == [None, {"threads": "1"}]
