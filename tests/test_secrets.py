"""A password in `search.storage` is used and found nowhere: no file of the run, no message, no log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages import RDBStorage

from mase import config, flow, secrets
from mase.cli import call
from mase.errors import ConfigError
from mase.explore import storage
from mase.explore.study import Study
from mase.report.summary import Reproduce

SECRET = "h0rse/b%40ttery"  # as an address has it
CLEAR = "h0rse/b@ttery"
ADDRESS = f"postgresql://me:{SECRET}@db.example/studies"
RUN: dict[str, Any] = {
    "name": "kept",
    "model": {"name": "mlp", "options": {"sizes": [64, 4, 10]}},
    "data": {"name": "digits"},
    "search": {
        "strategy": "random",
        "trials": 2,
        "tolerance": 1.0,
        "weight": ["int6"],
        "activation": ["fixed8", "int6"],
    },
    "synthesize": {"enabled": False},
}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for a database server: remember the addresses that were opened."""
    opened: list[str] = []

    def server(url: str) -> RDBStorage:
        opened.append(url)
        return RDBStorage(f"sqlite:///{tmp_path / 'server.db'}")

    monkeypatch.setattr(storage, "RDBStorage", server)
    return opened


def written(folder: Path, address: str) -> Path:
    path = folder / "kept.yaml"
    path.write_text(yaml.safe_dump({**RUN, "search": {**RUN["search"], "storage": address}}))
    return path


def holds_a_secret(text: str) -> bool:
    return any(part in text for part in (SECRET, CLEAR, "h0rse", "ttery"))


def test_no_file_and_no_line_of_a_run_shows_a_password_and_it_resumes(
    database: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = written(tmp_path, ADDRESS), tmp_path / "run"
    assert call(["quantize", str(path), "--out", str(folder)]) == 0
    made = flow.open_run(path, folder)
    (folder / "report.json").write_text(json.dumps(vars(Reproduce("mase run", config.dump(made.config)))))
    assert call(["search", str(folder), "--set", "search.trials=3"]) == 2
    shown = capfd.readouterr()
    assert (
        "MASE_STORAGE_PASSWORD is not set; it stands for the password, which is not kept in a run folder" in shown.err
    )
    monkeypatch.setenv(secrets.VARIABLE, CLEAR)
    assert call(["search", str(folder), "--set", "search.trials=3"]) == 0
    assert call(["search", str(path), "--out", str(folder), "--set", "search.trials=4"]) == 0
    again = capfd.readouterr()
    clear = f"postgresql://me:{'h0rse%2Fb%40ttery'}@db.example/studies"
    assert set(database) == {ADDRESS, clear}
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"config.yaml", "log.txt", "stages.json", "trials.csv"} <= {file.name for file in files}
    assert not [file for file in files if holds_a_secret(file.read_bytes().decode(errors="replace"))]
    assert not holds_a_secret(shown.out + shown.err + again.out + again.err)
    assert (
        "storage: postgresql://me:${MASE_STORAGE_PASSWORD}@db.example/studies" in (folder / "config.yaml").read_text()
    )


def test_a_whole_address_may_come_from_the_environment(
    database: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "${MY_STUDIES}")
    monkeypatch.setenv("MY_STUDIES", ADDRESS)
    assert flow.search(path, tmp_path / "run").trials
    assert database == [ADDRESS]
    assert "storage: ${MY_STUDIES}" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_configuration_does_not_show_its_password_in_python_either(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, ADDRESS))
    for text in (repr(found), str(found.model_dump()), found.model_dump_json(), config.dump(found)):
        assert not holds_a_secret(text)
    assert found.search is not None and found.search.storage is not None
    assert found.search.storage.get_secret_value() == ADDRESS


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        ({"search": ADDRESS}, []),
        ({"search": {**RUN["search"], "storage": [ADDRESS]}}, []),
        ({"search": {**RUN["search"], "storage": {"url": ADDRESS}}}, []),
        ({"search": {**RUN["search"], "strategy": ADDRESS}}, []),
        ({"search": {**RUN["search"], "trials": ADDRESS}}, []),
        ({"search": {**RUN["search"], "storage": "postgresql://me:h0rse@b@ttery@db/x"}}, []),
        ({"search": {**RUN["search"], "storage": "postgresql://db/x?user=me&password=h0rse"}}, []),
        ({"search": {**RUN["search"], "storage": "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dh0rse"}}, []),
        ({}, ["--set", f"search.storage {ADDRESS}"]),
        ({}, ["--set", f"search={ADDRESS}"]),
        ({}, ["--set", f"search.storage=nothing://me:{SECRET}@db/x"]),
        ({}, ["--set", f"search.storage=sqlite://me:{SECRET}@db/x"]),
    ],
)
def test_no_error_shows_a_password(
    change: dict[str, Any], arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**RUN, **change}))
    assert call(["search", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run"), *arguments]) == 2
    shown = capfd.readouterr()
    assert shown.err.splitlines()[-1].startswith("mase: ")
    assert not holds_a_secret(shown.out + shown.err)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not [file for file in files if holds_a_secret(file.read_text(errors="replace"))]


def test_what_a_driver_says_is_shown_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def server(url: str) -> RDBStorage:
        raise RuntimeError(f"cannot reach {url}: {CLEAR} is wrong")

    monkeypatch.setattr(storage, "RDBStorage", server)
    with pytest.raises(ConfigError, match=r"cannot be opened: cannot reach .*: \*\*\* is wrong") as caught:
        Study.load(ADDRESS)
    assert not holds_a_secret(str(caught.value)) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("sqlite:///s.db?timeout=0.1", "sqlite:///s.db?timeout=0.1"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        (
            "postgresql://me:a/b:c@db:5432/x?sslmode=require",
            "postgresql://me:${MASE_STORAGE_PASSWORD}@db:5432/x?sslmode=require",
        ),
        ("postgresql://me:${OWN}@db/x", "postgresql://me:${OWN}@db/x"),
        ("studies/mine.journal", "studies/mine.journal"),
    ],
)
def test_only_the_password_is_replaced(address: str, kept: str) -> None:
    assert secrets.written(secrets.check(address)) == kept
