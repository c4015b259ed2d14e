"""The first page keeps what it shows: an example of fifteen lines that runs, commands that exist."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mase.cli import app
from tests.docs.pages import DOCS, ROOT, blocks, execute

PAGE = ROOT / "README.md"
LINES = 15


def example() -> list[str]:
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    return [line for line in block.text.splitlines() if line]


def test_the_example_is_short() -> None:
    assert len(example()) <= LINES


@pytest.mark.sim
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    execute(block, PAGE, {"__name__": "page"})
    assert (tmp_path / "build" / "mlp" / "design.json").is_file()


def test_every_command_has_its_place_in_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    cells = " ".join(re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE))
    named = set(re.findall(r"\b[a-z]+\b", cells)) - {"mase"}
    commands = {c.name or c.callback.__name__.rstrip("_") for c in app.registered_commands if c.callback is not None}
    assert named == commands


def test_both_first_commands_stand_on_the_first_screen() -> None:
    head = PAGE.read_text(encoding="utf-8").splitlines()[:16]
    assert [line.split("#")[0].strip() for line in head if line.startswith("make ")] == ["make demo", "make test"]


def test_the_picture_is_well_formed_and_fetches_nothing() -> None:
    text = (DOCS / "road.svg").read_text(encoding="utf-8")
    ET.fromstring(text)
    assert not re.search(r"href|<script|@import|url\((?!#)", text)
