"""The table of a study: means over seeds, what recipes are held against, and the page."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest

from mase.report import study
from mase.report.study import Found, assemble, between, front
from tests.report.example import HOSTILE

COST = {"paper_bits": 2.0, "seconds": 1.0, "cpu_seconds": 0.5, "peak_mib": 300.0}


def one(recipe: str, bits: float | None, loss: float, seed: int = 0, form: str = "f", model: str = "m") -> Found:
    cost = {**COST, "paper_bits": bits} if bits is not None else {**COST, "paper_bits": None}
    return Found(model, seed, recipe, form if bits else "", loss, 2 * loss, stored_bits=bits, **cost)  # type: ignore[arg-type]


def test_the_baseline_is_linear_between_points_that_nothing_beats() -> None:
    curve = front([(2.0, 3.0), (4.0, 1.0), (3.0, 3.5), (None, 1.0), (4.5, 1.5)])
    assert curve == [(2.0, 3.0), (4.0, 1.0)]
    assert [between(curve, bits) for bits in (1.9, 2.0, 2.5, 4.0, 9.0)] == [None, 3.0, 2.5, 1.0, 1.0]
    assert between([], 3.0) is None


def test_rows_are_means_over_seeds_and_gaps_are_of_perplexity() -> None:
    cells = [one("float", None, 1.0, s) for s in (0, 1)]
    cells += [one("rtn", bits, 1 + 2 / bits + s, s, f"int{bits:g}") for s in (0, 1) for bits in (2.0, 4.0)]
    cells += [one("good", 3.0, 1.25, 0), one("good", 3.0, 3.25, 1), Found("m", 0, "bad", "f", failed="no")]
    table = assemble("s", cells, 9, "rtn")
    rows = {(row.recipe, row.format): row for row in table.rows}
    good = rows["good", "f"]
    assert (good.seeds, good.bits_per_byte, good.spread, good.better) == (2, 4.5, 4.0, 1)
    base = ((2 + 1.5) / 2 + (3 + 2.5) / 2) / 2  # at 3 bits, halfway, the mean of both seeds
    assert good.baseline == pytest.approx(2 * base)
    gap = math.exp(base) - math.exp(1.0)
    assert good.closed == pytest.approx((math.exp(base) - math.exp(2.25)) / gap)
    assert rows["rtn", "int2"].closed == 0 and rows["float", ""].baseline is None
    assert [found.recipe for found in table.failed] == ["bad"]
    assert all(row.closed is None for row in assemble("s", cells, 9, None).rows)


def test_fewer_bits_than_the_baseline_has_are_held_against_nothing() -> None:
    (row,) = assemble("s", [one("x", 1.0, 2.0)], 1, "rtn").rows
    assert (row.baseline, row.closed, row.better) == (None, None, None)


def test_csv_has_every_cell() -> None:
    found = [one("rtn", 2.0, 1.0), Found("m", 1, "x", "f", failed='a "quoted", reason')]
    rows = list(csv.DictReader(io.StringIO(study.csv_of(found))))
    assert float(rows[0]["perplexity"]) == math.e and rows[1]["loss"] == ""
    assert rows[1]["failed"] == 'a "quoted", reason'


def test_markdown_has_a_line_a_row() -> None:
    table = assemble("s", [one("float", None, 1.0), one("rtn", 2.0, 2.0), one("x", 2.0, 1.5)], 3, "rtn")
    lines = study.markdown(table).splitlines()
    assert lines[0] == "### m" and len(lines) == 7
    assert lines[-1].startswith("| x | f | 2.000 | 2.000 | 3.0000 |") and "| 1 of 1 |" in lines[-1]


def test_the_page_shows_rows_plots_and_reasons_and_breaks_on_no_name() -> None:
    cells = [one("float", None, 1.0), *(one("rtn", b, 1 + 1 / b, form=f"int{b:g}") for b in (2.0, 3.0, 8.0))]
    cells += [one(HOSTILE, 2.5, 1.2), Found("m", 0, "x", HOSTILE, failed=HOSTILE)]
    page = study.render(assemble(HOSTILE, cells, 6, "rtn"))
    assert page.count("<svg") == 2 and page.count('class="mark') == 2 * (3 + 4)
    assert "<script" not in page and HOSTILE not in page
    assert re.search(r"int3</td><td>1</td><td>3.000</td><td>3.000</td>", page)
    assert "Failed: 1" in page
    assert page.count("<td>0 of 1</td>") == 3 and page.count("<td>1 of 1</td>") == 1
    assert re.search(r'<th scope="col">better</th>', page)
    bare = study.render(assemble("s", [], 6, None))
    assert "<svg" not in bare


def test_a_loss_without_bounds_is_still_a_number() -> None:
    assert math.isfinite(study.perplexity(1e4))
