"""The fitted table is data: whole, reproducible from the recorded blocks, and refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.calibration import fit
from bench.calibration.__main__ import recorded
from bench.calibration.blocks import points
from mase.cost import table
from mase.cost.device import device
from mase.cost.table import Error, Table, load
from mase.errors import GraphError


@pytest.fixture
def found() -> Table:
    loaded = load("xcup")
    assert loaded is not None
    return loaded


def test_the_table_says_where_it_comes_from(found: Table) -> None:
    assert found.tool.startswith("Yosys ")
    assert "synth_xilinx -family xcup" in found.script
    assert (found.target, found.points > 100, found.designs >= 8) == ("xcup", True, True)


def test_the_stated_errors_keep_the_bars(found: Table) -> None:
    for error in found.designs_error.values():
        assert error.median <= 0.10
        assert error.worst <= 0.25


def test_a_target_without_a_fit_has_no_table() -> None:
    assert load("ecp5") is None


def test_text_and_table_are_the_same_thing(found: Table) -> None:
    assert Table.parse(json.loads(found.text())) == found
    assert (table.FOLDER / "xcup.json").read_text() == found.text()


def test_the_table_is_the_fit_of_the_recorded_blocks(found: Table) -> None:
    again = fit.fitted(points(), recorded("xcup"), device("xcup"), found.tool, found.script)
    assert again.points == found.points
    assert again.products == found.products
    assert again.luts == pytest.approx(found.luts, abs=1e-3)  # rounded to 4 digits
    for mine, theirs in ((again.rom, found.rom), (again.shares, found.shares)):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], abs=1e-3)


def test_no_figure_is_negative(found: Table) -> None:
    figures = [*found.luts.values(), *found.rom[1], *found.shares[1], *found.products.values()]
    assert min(figures) >= 0.0


def test_a_product_has_no_order(found: Table) -> None:
    assert found.product(3, 4) == found.product(4, 3) > found.product(3, 3)
    assert found.product(40, 1) == 40  # not measured: one LUT for each pair of bits


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "corrupt"), ('{"schema": 0}', "another schema"), ('{"schema": 1, "luts": {}}', "corrupt")],
)
def test_a_damaged_file_is_one_clear_error(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.json").write_text(text)
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    with pytest.raises(GraphError, match=said):
        load("broken")


def test_an_error_reads_as_percentages() -> None:
    assert str(Error(0.0312, 0.101)) == "median 3.1%, worst 10.1%"
    assert fit.error([90.0, 100.0, 130.0], [100.0, 100.0, 100.0]) == Error(0.1, 0.3)
