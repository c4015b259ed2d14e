"""The recipe for a pass, followed to the letter in a copy of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, checkout, follow, shell

PAGE = DOCS / "add_a_pass.md"


@pytest.mark.slow
def test_following_the_page_gives_a_pass_that_is_listed(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    follow(PAGE, copy, copy)
    assert "clip" in shell("mase list passes", copy, copy)
