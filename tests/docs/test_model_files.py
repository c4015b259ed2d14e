"""The page on models from files names every operator that is read, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mase.frontend.onnx_nodes import NODES, OPAQUE
from mase.models import huggingface
from tests.docs.pages import DOCS, blocks, execute

PAGE = DOCS / "model_files.md"


def rows() -> dict[str, set[str]]:
    """Return the operators by kind."""
    table = PAGE.read_text(encoding="utf-8").split("| kind | operators |\n")[1].split("\n\n")[0]
    cells = [line.split("|")[1:3] for line in table.splitlines()[1:]]
    return {kind.strip(): set(re.findall(r"`(\w+)`", names)) for kind, names in cells}


def test_every_operator_is_named() -> None:
    found = rows()
    assert set().union(*found.values()) == set(NODES)
    assert found["opaque"] == set(OPAQUE)


def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")
    monkeypatch.chdir(tmp_path)
    examples = [block for block in blocks(PAGE) if block.language == "python"]
    assert len(examples) == 2
    for block in examples:
        execute(block, PAGE, {})
    assert callable(huggingface.load_tokenizer)
