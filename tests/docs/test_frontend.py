"""The examples of the page about front doors hold, in order."""

from __future__ import annotations

from typing import Any

import torch

from tests.docs.pages import DOCS, blocks, execute


def test_the_examples_of_the_page_hold() -> None:
    page = DOCS / "frontend.md"
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    for block in blocks(page):
        if block.language == "python":
            execute(block, page, names)
    assert names["report"].opaque
