"""Figures hold exactly within their bars; JSON carries what issues and dashboards read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common import Figure, in_fresh_process, median_cpu_seconds, merge, print_table, shown, write_json


@pytest.mark.parametrize(
    ("figure", "bar", "holds"),
    [
        (Figure("a", 1.5, "s", at_most=1.5), "<= 1.5", True),
        (Figure("a", 1.6, "s", at_most=1.5), "<= 1.5", False),
        (Figure("a", 120_000, "1/s", at_least=100_000), ">= 100,000", True),
        (Figure("a", 99_999, "1/s", at_least=100_000), ">= 100,000", False),
        (Figure("a", 0, at_least=0, at_most=0), "= 0", True),
        (Figure("a", 1, at_least=0, at_most=0), "= 0", False),
        (Figure("a", 2, at_least=1, at_most=3), ">= 1 and <= 3", True),
        (Figure("a", 7), "", True),
        (Figure("a", math.nan), "", False),
    ],
)
def test_a_figure_holds_within_its_bar(figure: Figure, bar: str, holds: bool) -> None:
    assert (figure.bar, figure.holds) == (bar, holds)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two figures have one name"):
        merge([Figure("a", 1), Figure("a", 2)])


def test_json_has_the_promised_fields(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", merge([Figure("rate", 2.0, "1/s", at_least=3)]))
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {"rate": {"value": 2.0, "unit": "1/s", "bar": ">= 3", "holds": False}}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_table_marks_a_missed_bar(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", merge([Figure("rate", 2.0, "1/s", at_least=3), Figure("size", 5.0)]))
    rows = capsys.readouterr().out.splitlines()
    assert [("MISSED" in row) for row in rows if "rate" in row or "size" in row] == [True, False]


def test_a_table_in_a_file_cuts_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    name = "formats_speedup_over_microxcaling_fp8_e4m3_quoted"
    print_table("t", merge([Figure(name, 123456.0, "trials/CPU s", at_least=100_000)]))
    assert name in capsys.readouterr().out


def test_cpu_time_counts_children_and_not_sleep() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    assert median_cpu_seconds(lambda: subprocess.run([sys.executable, "-c", busy], check=True), 1, 0) >= 0.2
    assert median_cpu_seconds(lambda: subprocess.run(["sleep", "0.2"], check=True), 1, 0) < 0.1


def test_a_fresh_process_gives_what_the_function_returns() -> None:
    assert in_fresh_process("os.path", "join", "a", "b", PYTHONHASHSEED="1") == "a/b"


def test_values_are_shown_with_four_digits_and_all_before_the_point() -> None:
    assert [shown(v) for v in (0.123456, 12.3456, 1000.4, 3323456.0)] == ["0.1235", "12.35", "1,000", "3,323,456"]
