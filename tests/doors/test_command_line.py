"""What a user gets wrong: exit code 2, one line on standard error without codes for a terminal, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from mase.cli import call

CONFIG = """
model: {name: mlp, options: {sizes: [64, 6, 10]}}
data: {name: digits}
quantize: {default: {weight: int6c, activation: fixed8}}
"""
SETTINGS = {
    "digits of a format": "quantize.default.weight=int" + "9" * 1900,
    "digits of an open point": "quantize.default.activation=fixed" + "9" * 1900,
    "digits of accumulation": "quantize.default.accumulation=aligned(" + "9" * 1900 + ")",
    "digits of an integer": "seed=" + "9" * 5000,
    "hexadecimal digits": "seed=0x" + "f" * 5000,
    "underscore": "seed=1_0",
    "underscore in text": 'seed="1_0"',
    "digits of another script": "seed=\u0661\u0662",
    "digits of another script in a format": "quantize.default.weight=int\u0668",
    "sixties": "seed=1:30",
    "true as a number": "seed=true",
    "not a number": "hardware.clock_mhz=.nan",
    "beyond float": "hardware.clock_mhz=1e999",
    "binary": "name=!!binary x",
    "bytes": "name=!!binary aGVsbG8=",
    "timestamp": "seed=!!timestamp x",
    "date": "seed=2020-01-01",
    "bool": "fuse=!!bool x",
    "int": "seed=!!int x",
    "float": "hardware.clock_mhz=!!float x",
    "null": "seed=!!null x",
    "set": "model.options=!!set {a}",
    "object": "model.options=!!python/object/apply:os.system [echo]",
    "alias of itself": "model.options=&a [*a]",
    "alias within itself": "model.options=&a {sizes: [64, *a]}",
    "no alias": "model.options=*a",
    "beyond Unicode": 'name="\\U00110000"',
    "half of a pair": 'name="\\ud800"',
    "half of a pair as it is": "name=\udc80",
    "null character": 'model.options.path="a\\0b"',
    "null character in the file of a user": 'model={python: "a\\0b.py:f"}',
    "half of a pair in the file of a user": 'data={python: "\\udcff.py:f"}',
    "null character in weights": 'model.weights="a\\0b"',
    "long path": "data={name: text, options: {path: " + "x/" * 9000 + "}}",
    "no path": 'data={name: text, options: {path: ""}}',
    "codes for a terminal": "model.name=\x1b[31mred",
    "codes for a terminal, escaped": 'model.name="\\e[31mred"',
    "codes for a terminal in a key": "\x1b[31mred=1",
    "text that turns around": "model.name=\u202elpm",
    "options of another kind": "model.options=[1]",
    "options with other keys": "model.options={1: 2}",
    "brackets": "model.options=" + "[" * 30_000,
    "directive": "seed=%YAML 9",
}
PATHS = {
    "empty": "",
    "null": "a\0b",
    "half of a pair": "a\udc80b",
    "code": "a\x1bb",
    "long": "x" * 5000,
    "deep": "x/" * 3000,
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def assert_refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(folder.rglob("*"))
    assert call(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mase: ") and said.err.endswith("\n")
    assert said.err[:-1].isprintable() and len(said.err) < 1100
    assert sorted(folder.rglob("*")) == before
    return said.err


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_setting(setting: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["trace", "c.yaml", "--set", setting], config, capsys)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("option", ["--out", "--svg", "--html"])
def test_a_path(option: str, path: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert option in assert_refused(["trace", "c.yaml", option, path], config, capsys) or len(path) > 4096


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("command", ["run", "simulate", "verify", "synth", "report"])
def test_a_folder(command: str, path: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused([command, path], config, capsys)


def test_text_is_not_a_number_in_options(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["trace", "c.yaml", "--set", "model.options.sizes=[64, '1_0', 10]"]) == 2
    said = "mase: model mlp: option 'sizes.1': found '1_0'; input should be a valid integer\n"
    assert capsys.readouterr().err == said


def test_a_file_that_never_ends(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a file" in assert_refused(["run", "/dev/zero"], config, capsys)


@pytest.mark.parametrize("form", ["int" + "9" * 1900, "fixed" + "9" * 5000, "int\u0668", "\x1b[31m", "e4m3\n", ""])
def test_a_format(form: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["formats", "plot", form], config, capsys)
    assert_refused(["formats", "plot", "int8", "--out", ""], config, capsys)


@pytest.mark.parametrize("arguments", [["\x1b[31m"], ["run"], ["list", "\x1b]0;x\x07"], ["run", "c.yaml", "--\x1b[1m"]])
def test_a_command(arguments: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(arguments, config, capsys)
