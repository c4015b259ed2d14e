"""Pages that follow from the code are up to date, their examples are legal, and every link and path leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mase.config import parse
from tests.docs.generate import PAGES, filled
from tests.docs.pages import DOCS, ROOT, blocks, execute

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
ROOMS = ("mase", "passes", "emit", "hw", "tests", "docs", "configs", "bench")
NEW = {"midrise", "clamp", "clip"}  # what the recipes add


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_up_to_date(page: str) -> None:  # else: python -m tests.docs.generate
    text = (DOCS / page).read_text(encoding="utf-8")
    assert filled(text) == text


def test_the_configurations_that_the_page_shows_are_legal() -> None:
    shown = [yaml.safe_load(block.text) for block in blocks(DOCS / "config.md") if block.language == "yaml"]
    assert [parse(data, "docs/config.md").name for data in shown] == ["by_hand", "searched"]


def test_the_examples_of_the_arithmetic_hold() -> None:
    page = DOCS / "arithmetic.md"
    examples = list(blocks(page))
    assert len(examples) >= 4
    for block in examples:
        execute(block, page, {"__name__": "page"})


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", TEXTS, ids=name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for path in re.findall(rf"`((?:{'|'.join(ROOMS)})/[^`\s]*)`", text):
        if "<" in path or any(new in path for new in NEW):
            continue
        assert list(ROOT.glob(path.rstrip("/"))), path
