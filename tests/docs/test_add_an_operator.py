"""The recipe for a hardware operator, followed to the letter in a copy of the repository: simulated, linted, traced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks, checkout, follow, shell

PAGE = DOCS / "add_an_operator.md"
TABLE = 'nn.Hardtanh: _activation("clamp", low="min_val", high="max_val"),'


@pytest.mark.slow
@pytest.mark.sim
def test_following_the_page_gives_an_operator_that_keeps_every_law(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    door = copy / "mase" / "frontend" / "modules.py"
    text = door.read_text(encoding="utf-8")  # what the page tells to add by hand
    (snippet,) = (block.text for block in blocks(PAGE) if block.language == "python" and not block.file)
    function = snippet[snippet.index("def _clamp") :]
    assert text.count(TABLE) == 1
    assert text.count("\nMODULES: ") == 1
    text = text.replace("\nMODULES: ", f"\n{function}\n\nMODULES: ").replace(TABLE, "nn.Hardtanh: _clamp,")
    door.write_text(text, encoding="utf-8")
    follow(PAGE, copy, copy)
    assert "clamp" in shell("mase list ops", copy, copy)
    lint = shell(next(block.text for block in blocks(PAGE) if "emit.lint" in block.text), copy, copy)
    assert [line for line in lint.splitlines() if line and "absent" not in line] == []
