"""The example of ``docs/families.md`` runs; its table is compared by the tests of the families."""

from __future__ import annotations

from tests.docs.pages import DOCS, blocks
from tests.frontend.families.models import FAMILIES

PAGE = DOCS / "families.md"


def test_the_example_of_a_decode_step_runs() -> None:
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    exec(compile(block.text, str(PAGE), "exec"), {})


def test_every_family_has_a_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [family.name for family in FAMILIES if f"\n| {family.name} |" not in text] == []
