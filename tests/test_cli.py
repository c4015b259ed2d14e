"""The command line: exit codes, one line for an error, JSON for machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mase import flow
from mase.cli import app, call

COMMANDS = (
    "run",
    "trace",
    "quantize",
    "search",
    "emit",
    "simulate",
    "verify",
    "compare",
    "synth",
    "report",
    "list",
    "schema",
    "doctor",
)
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "mlp", "options": {"sizes": [64, 6, 10]}},
    "data": {"name": "digits"},
    "train": {"epochs": 2},
    "quantize": {"default": {"weight": "int6c", "activation": "fixed8"}},
    "hardware": {"interval": 64},
    "simulate": {"samples": 5},
    "synthesize": {"enabled": False},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path / "tiny.yaml"


def lines(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip()


def test_formats_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "formats.svg"
    assert call(["formats", "plot", "mxint4b16", "e4m3", "--out", str(out)]) == 0
    assert out.read_text().startswith("<svg")
    assert call(["formats", "plot", "mxin4b16", "--out", str(out)]) == 2
    assert "format 'mxin4b16': not a text form" in lines(capsys)


def test_a_wrong_name_is_said_before_anything_is_done(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        "quantize.default.weight=int99": "quantize.default.weight: int: width is 99",
        "quantize.overrides={fc1: {output: fixd8}}": "quantize.overrides.fc1.output: format 'fixd8'",
        "hardware.target=xcupp": "did you mean xcup?",
        "model.name=mpl": "did you mean mlp?",
        "data.name=digit": "did you mean digits?",
        "search={weight: [int8], activation: [fixed8], strategy: tpee}": "did you mean tpe?",
        "quantize.default.activation=fixed99": "quantize.default.activation: fixed: width is 99",
        "search={weight: [int8, ufixed99], activation: [fixed8]}": "search.weight[1]: fixed: width is 99",
        "quantize.default.accumulation=alligned(8)": "quantize.default: accumulation 'alligned(8)'; allowed: exact",
        "quantize.overrides={fc1: {accumulation: aligned(99)}}": "quantize.overrides.fc1: accumulation 'aligned(99)'",
    }
    for setting, said in wrong.items():
        assert call(["run", str(tiny), "--set", setting]) == 2
        assert said in lines(capsys)
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("hardware.folding.zz={simd: 4}", "map.folding 'zz': matches no node"),
        ("quantize.overrides={fc9: {output: fixed6}}", "quantize.overrides 'fc9': matches no node; did you mean fc"),
    ],
)
def test_a_glob_that_matches_nothing_is_said_before_training(
    setting: str, said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", str(tiny), "--set", setting, "--dry-run"]) == 2
    assert said in lines(capsys)
    assert call(["run", str(tiny), "--set", setting, "--out", "a"]) == 2
    assert said in lines(capsys)
    assert not (tiny.parent / "a" / "model.safetensors").exists()


def test_a_field_of_thousands_of_names_is_one_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(tiny), "--set", "model.options." + "a." * 2000 + "b=3"]) == 2
    assert "2003 names; at most 100" in lines(capsys)


def test_a_model_that_no_memory_holds_is_one_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("100000000000", "100000000000000000000"):
        assert call(["run", str(tiny), "--set", f"model.options.sizes=[64,{size},10]"]) == 2
        error = lines(capsys)
        assert f"model mlp: option 'sizes.1': found {size}; input should be less than or equal to 1048576" in error
        assert "\n" not in error


def test_the_version_and_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mase-dse ")
    done = subprocess.run([sys.executable, "-m", "mase", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:9]) == (0, "mase-dse ")


def test_an_open_point_is_no_format_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["formats", "plot", "fixed3", "--out", str(tmp_path / "f.svg")]) == 2
    assert "'fixed3': its binary point is open until there is data; write one, such as fixed3.1" in lines(capsys)


def test_a_run_folder_whose_configuration_was_cut_off_does_not_run_as_another(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["trace", str(tiny), "--out", "a"]) == 0
    own = tiny.parent / "a" / "config.yaml"
    whole = own.read_text()
    assert call(["trace", "a"]) == 0
    capsys.readouterr()
    for damaged in (whole[: whole.index("hardware:")], whole.replace("seed: 0", "seed: 1")):
        own.write_text(damaged)
        assert call(["trace", "a"]) == 2
        assert "config.yaml: cut off or edited" in lines(capsys)
        assert own.read_text() == damaged


def test_trace_trains_nothing_and_needs_no_formats(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tiny.parent / "bare.yaml"
    bare.write_text(yaml.safe_dump({key: value for key, value in TINY.items() if key != "quantize"}))
    assert call(["trace", str(bare), "--out", "bare", "--json"]) == 0
    assert {p.name for p in (tiny.parent / "bare").iterdir()} == {"config.yaml", "home.txt"}
    assert call(["quantize", str(bare)]) == 2
    assert "neither a quantize nor a search section" in lines(capsys)


def test_trace_after_a_run_shows_the_trained_weights_and_keeps_its_stages(tiny: Path) -> None:
    assert call(["quantize", str(tiny), "--out", "a"]) == 0
    before = (tiny.parent / "a" / "stages.json").read_bytes()
    built, trained = (
        flow.open_run(tiny, tiny.parent / folder).look().node("fc1").tensor("weight") for folder in ("b", "a")
    )
    assert not built.equal(trained)
    assert (tiny.parent / "a" / "stages.json").read_bytes() == before


def test_a_run_keeps_a_log(tiny: Path) -> None:
    assert call(["quantize", str(tiny), "--out", "a"]) == 0
    said = [line.split(" ", 2)[2] for line in (tiny.parent / "a" / "log.txt").read_text().splitlines()]
    assert said[0] == "train: start"
    assert any(line.startswith("build: ") for line in said)


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(COMMANDS) <= names
    for name in sorted(names):
        assert call([name, "--help"]) == 0
        assert f"mase {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument"),
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["list", "format"], "unknown name 'format'; did you mean formats?"),
        (["verify", "nowhere"], "graph.json: no such file"),
        (["compare", "nowhere"], "graph.json: no such file"),
        (["synth", "nowhere"], "config.yaml: no such file"),
        (["report", "nowhere"], "report.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert call(arguments) == 2
    error = lines(capsys)
    assert text in error
    assert "\n" not in error
    assert {p.name for p in tiny.parent.iterdir()} == {"tiny.yaml"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("model.name=mpl", "model: unknown name 'mpl'; did you mean mlp?"),
        ("data.name=digit", "data: unknown name 'digit'; did you mean digits?"),
        ("quantize.default.weight=imt8", "quantize.default.weight: format 'imt8'"),
        ("quantize.overrides={fc3: {weight: int8}}", "quantize.overrides 'fc3': matches no node; did you mean fc"),
        ("hardware.folding={fc9: {pe: 2}}", "map.folding 'fc9': matches no node; did you mean fc"),
        ("hardware.target=xcpu", "unknown name 'xcpu'; did you mean xcup?"),
        ("quantize.default.accumulation=aligned(99)", "accumulation 'aligned(99)'; allowed: exact, or aligned(G)"),
        ("model.options={size: [3]}", "model mlp: unknown option 'size'; did you mean sizes?"),
        ("model.options={sizes: [3]}", "model mlp: sizes [3]"),
        ("search={strategy: tpf, trials: 2, weight: [int8], activation: [int8]}", "did you mean tpe?"),
    ],
)
def test_a_wrong_configuration_says_where(
    change: str, text: str, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert call(["quantize", str(tiny), "--set", change, "--json"]) == 2
    error = lines(capsys)
    assert text in error
    assert "\n" not in error


@pytest.mark.parametrize("what", ["formats", "passes", "ops", "models", "data", "strategies", "devices"])
def test_lists_are_tables_and_json(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["name"] for row in rows)
    assert call(["list", what]) == 0
    assert rows[0]["name"] in capsys.readouterr().out


def test_schema_is_that_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema"]) == 0
    assert "search" in json.loads(capsys.readouterr().out)["properties"]


def test_doctor_tells_each_tool(capsys: pytest.CaptureFixture[str]) -> None:
    call(["doctor", "--json"])
    assert {"g++", "verilator", "pyosys"} <= {tool["name"] for tool in json.loads(capsys.readouterr().out)}


def test_cache_is_shown_and_cleaned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASE_CACHE", str(tmp_path))
    (tmp_path / "sim" / "k").mkdir(parents=True)
    (tmp_path / "sim" / "k" / "sim").write_bytes(bytes(1 << 20))
    assert call(["cache", "--json"]) == 0
    found = {"part": "sim", "files": 1, "MiB": 1.0, "removed MiB": 0.0}
    assert json.loads(capsys.readouterr().out)["parts"] == [found]
    (tmp_path / "sim" / "old").mkdir()
    (tmp_path / "sim" / "old" / "sim").write_bytes(bytes(1 << 20))
    for path in (tmp_path / "sim" / "old" / "sim", tmp_path / "sim" / "old"):
        os.utime(path, times=(0, 0))
    assert call(["cache", "--older-than", "30", "--json"]) == 0
    found = {"part": "sim", "files": 2, "MiB": 2.0, "removed MiB": 1.0}
    assert json.loads(capsys.readouterr().out)["parts"] == [found]
    assert [p.name for p in (tmp_path / "sim").iterdir()] == ["k"]
    assert call(["cache", "--clean"]) == 0
    assert not list(tmp_path.iterdir())


def test_trace_prints_nodes_and_a_dry_run_leaves_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(tiny), "--dry-run", "--json"]) == 0
    assert "444 MACs" in json.loads(capsys.readouterr().out)["model"]
    assert {p.name for p in tiny.parent.iterdir()} == {"tiny.yaml"}
    assert call(["trace", str(tiny), "--json"]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [n["macs"] for n in nodes if n["kind"] == "linear"] == [384, 60]


def test_trace_prints_totals_and_draws(tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    svg, page = tmp_path / "graph.svg", tmp_path / "graph.html"
    assert call(["trace", str(tiny), "--svg", str(svg), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "MACs: 444" in shown
    assert "0 opaque" in shown
    assert svg.read_text(encoding="utf-8").startswith("<svg")
    assert "<!doctype html>" in page.read_text(encoding="utf-8")
    assert call(["trace", str(tiny), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["flops"]["macs"], found["trace"]["opaque"]) == (444, {})
    assert found["liveness"]["peak"] > 0
    assert call(["trace", str(tiny), "--svg", str(tmp_path / "no" / "folder" / "\0.svg")]) == 2


def test_a_file_that_is_not_beside_the_configuration_does_not_run(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    data = {**TINY, "model": {"python": "../outside.py:build"}}
    (tmp_path / "outside.py").write_text("raise SystemExit('ran')")
    (tmp_path / "deep" / "c.yaml").write_text(yaml.safe_dump(data))
    assert call(["trace", str(tmp_path / "deep" / "c.yaml")]) == 2
    assert "lies outside" in lines(capsys)


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mase.cli", "list", "ops"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "linear" in done.stdout
