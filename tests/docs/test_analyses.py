"""The page on analyses: its example runs, and it names every pass that is one."""

from __future__ import annotations

from passes.base import PASSES
from tests.docs.pages import DOCS, blocks, execute

PAGE = DOCS / "analyses.md"


def test_the_example_runs() -> None:
    names: dict[str, object] = {}
    for block in blocks(PAGE):
        if block.language == "python":
            execute(block, PAGE, names)
    assert names["edges"]


def test_every_analysis_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    analyses = {"shapes", "flops", "parameters", "liveness", "weights", "statistics"}
    assert analyses <= {name for name, _ in PASSES.items()}
    assert all(f"| `{name}` |" in text for name in analyses)
