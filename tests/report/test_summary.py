from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from mase.errors import GraphError, MaseError
from mase.report import summary
from tests.report.example import HOSTILE, example

REQUIRED = (
    "accuracy.float accuracy.chosen rtl.samples rtl.mismatches rtl.lint_warnings rtl.latency_cycles.predicted "
    "rtl.latency_cycles.simulated rtl.interval_cycles.predicted rtl.interval_cycles.simulated search.strategy "
    "search.trials search.seconds search.pareto seconds.search versions seed "
    + " ".join(f"resources.{r}.{o}" for r in ("lut", "ff", "dsp", "bram") for o in ("predicted", "synthesised"))
)


def written(path: Path, **change: Any) -> Path:
    path.write_text(json.dumps({**summary.to_json(example()), **change}))
    return path


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    summary.dump(example(), tmp_path / "report.json")
    assert summary.load(tmp_path / "report.json") == example()


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        summary.dump(example(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("path", REQUIRED.split())
def test_the_promised_field_is_there(path: str) -> None:
    at: Any = summary.to_json(example())
    for part in path.split("."):
        at = at[part]
    assert at is not None


def test_it_is_strict_json_where_a_ratio_is_infinite(tmp_path: Path) -> None:
    summary.dump(example(), tmp_path / "report.json")
    refuse = {"parse_constant": pytest.fail}
    layers = json.loads((tmp_path / "report.json").read_text(), **refuse)["layers"]
    assert [layer["snr_db"] for layer in layers] == [31.5, "Infinity", None, 28.0]
    assert summary.load(tmp_path / "report.json").layers[1].snr_db == math.inf


def test_whole_cycles_stay_integers() -> None:
    assert str(summary.to_json(example())["rtl"]["latency_cycles"]["predicted"]) == "182"


def test_a_run_without_search_simulation_and_synthesis_has_nulls(tmp_path: Path) -> None:
    figure = summary.Figure(1)
    resources = replace(example().resources, lut=figure, synthesised_by=None)
    bare = replace(example(), rtl=None, search=None, resources=resources)
    summary.dump(bare, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["rtl"], data["search"], data["resources"]["lut"]["synthesised"]) == (None, None, None)
    assert summary.load(tmp_path / "report.json") == bare


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": summary.SCHEMA + 1}, "schema 3; this version reads schema 2"),
        ({"schema": None}, "schema None"),
        ({"seed": "x"}, "seed: found 'x'; input should be a valid integer"),
        ({"widht": 1}, "widht: found 1; unexpected keyword argument"),
        (
            {"model": {"name": "m", "parameters": -1, "macs": 0}},
            "model.parameters: found -1; input should be greater than",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "report.json", **change)
    with pytest.raises(GraphError) as caught:
        summary.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": 1}', "\xff"])
def test_a_corrupt_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GraphError, match=r"report\.json: "):
        summary.load(path)


def test_a_missing_file_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such file; `mase run` writes it"):
        summary.load(tmp_path / "report.json")


def test_a_folder_that_takes_no_file_keeps_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaseError, match="cannot write"):
        summary.dump(example(), tmp_path / "file" / "report.json")


def test_a_report_with_a_value_that_is_no_number_cannot_be_made() -> None:
    with pytest.raises(pydantic.ValidationError, match="finite"):
        summary.Accuracy("accuracy", math.nan, 1, 1, 1, 0)


def test_the_schema_describes_every_field_and_infinity() -> None:
    schema = summary.json_schema()
    assert set(schema["properties"]) == set(summary.to_json(example()))
    assert "Infinity" in json.dumps(schema["$defs"]["Layer"]["properties"]["snr_db"])


def test_the_example_is_hostile() -> None:
    assert json.dumps(summary.to_json(example())).count(json.dumps(HOSTILE)[1:-1]) >= 5
