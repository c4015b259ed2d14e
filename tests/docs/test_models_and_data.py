"""The page on models and data names all of them, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mase.data.base import DATASETS
from mase.models.base import MODELS, build
from tests.docs.pages import DOCS, blocks, follow

PAGE = DOCS / "models_and_data.md"


def names(heading: str) -> set[str]:
    """Return the names in the first column of the table below a heading."""
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_model_and_every_data_set_is_named() -> None:
    assert names("Models") == set(MODELS)
    assert names("Data") == set(DATASETS)


def test_the_parameters_that_it_tells_are_counted() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, told in re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+)[^|]*\|$", text, re.MULTILINE):
        assert sum(p.numel() for p in build(name).parameters()) == int(told.replace(",", "")), name


@pytest.mark.slow
def test_its_examples_run(tmp_path: Path) -> None:
    assert sum(block.language == "python" for block in blocks(PAGE)) == 2
    follow(PAGE, tmp_path)
