"""The files that the recipes add are as clean as the house asks: style, format, types; each opens with what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks, checkout, shell, write

RECIPES = ("add_a_format.md", "add_an_operator.md", "add_a_pass.md")
FILES = [
    block for name in RECIPES for block in blocks(DOCS / name) if block.file.startswith(("mase/", "passes/", "tests/"))
]


def test_each_recipe_brings_a_source_and_its_test() -> None:
    found = [block.file.rpartition("/")[2].removeprefix("test_") for block in FILES]
    assert found == ["midrise.py", "midrise.py", "clamp.py", "clamp.py", "clip.py", "clip.py"]
    assert all(block.text.startswith('"""') for block in FILES)


@pytest.mark.slow
def test_lint_and_types_find_nothing(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    for block in FILES:
        write(block, copy)
    files = " ".join(block.file for block in FILES)
    sources = " ".join(block.file for block in FILES if not block.file.startswith("tests/"))
    shell(f"python -m ruff check --extend-ignore ARG {files} && python -m ruff format --check {files}", copy, copy)
    shell(f"python -m mypy --follow-imports silent {sources}", copy, copy)
