"""The recipe for a number format, followed to the letter in a copy of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, checkout, follow, shell

PAGE = DOCS / "add_a_format.md"


@pytest.mark.slow
def test_following_the_page_gives_a_format_that_keeps_every_law(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    zoo = copy / "mase" / "formats" / "zoo.py"
    text = zoo.read_text(encoding="utf-8")  # what the page tells to add by hand
    more = text.replace('        "log4",\n', '        "log4",\n        "midrise4.2",\n').replace(
        '    "nf": "nf3",\n', '    "nf": "nf3",\n    "midrise": "midrise3.1",\n'
    )
    assert more.count("midrise") == text.count("midrise") + 3
    zoo.write_text(more, encoding="utf-8")
    follow(PAGE, copy, copy)
    assert "midrise4.2" in shell("mase list formats", copy, copy)
    assert "`midrise4.2` | 4 |" in (copy / "docs" / "formats.md").read_text(encoding="utf-8")
