"""A stage is done once for each content, and only if it ended well."""

from __future__ import annotations

from pathlib import Path

import pytest

from mase.stages import Stages, key_of


def test_a_finished_stage_is_fresh_until_its_key_or_its_file_changes(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    stages = Stages(tmp_path, lambda name, what: heard.append((name, what)))
    assert not stages.fresh("emit", "k")
    with stages.running("emit", "k", ("a",)):
        (tmp_path / "a").write_text("x")
    again = Stages(tmp_path, lambda name, what: None)
    assert again.fresh("emit", "k")
    assert not again.fresh("emit", "other")
    (tmp_path / "a").unlink()
    assert not again.fresh("emit", "k")
    assert heard[0][1] == "start" and again.seconds["emit"] >= 0


@pytest.mark.parametrize("damaged", ["rtl/a.sv", "rtl/mem/w.mem"])
def test_a_damaged_file_means_that_its_stage_is_done_again(damaged: str, tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda name, what: None)
    with stages.running("emit", "k", ("rtl",)):
        for name in ("rtl/a.sv", "rtl/mem/w.mem"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("text")
    (tmp_path / "rtl" / "notes.txt").write_text("what somebody adds is not ours")
    again = Stages(tmp_path, lambda name, what: None)
    assert again.fresh("emit", "k")
    assert set(again.files("emit")) == {"rtl/a.sv", "rtl/mem/w.mem"}
    (tmp_path / damaged).write_text("te")
    assert not again.fresh("emit", "k")


def test_a_stage_that_fails_is_not_finished(tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda name, what: None)
    with pytest.raises(RuntimeError), stages.running("emit", "k"):
        raise RuntimeError
    assert not Stages(tmp_path, lambda name, what: None).fresh("emit", "k")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"emit": 3}', '{"emit": {"key": 1}}', '{"emit": {"key": "k", "seconds": 1, "files": 3}}']
)
def test_damaged_notes_mean_that_everything_is_done_again(text: str, tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(text)
    assert Stages(tmp_path, lambda name, what: None).seconds == {}


def test_keys_depend_on_data_and_on_file_contents(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("1")
    first = key_of({"a": 1, "b": 2}, file)
    assert first == key_of({"b": 2, "a": 1}, file)
    file.write_text("2")
    assert first != key_of({"a": 1, "b": 2}, file)
