"""The page on post-training quantization: its example runs, and its configuration is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mase.flow import ptq_job
from passes.ptq.recipe import recipe
from tests.docs.pages import DOCS, blocks, execute

PAGE = DOCS / "ptq.md"


def test_the_example_runs_and_the_configuration_loads(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(PAGE):
        if block.language == "python":
            execute(block, PAGE, names)
        if block.language == "yaml":
            data = yaml.safe_load(block.text)
            data["calibration"] |= {"tokenizer": "bytes", "samples": 2, "length": 4}
            (tmp_path / "wiki.txt").write_text("twelve bytes")
            (tmp_path / "ptq.yaml").write_text(yaml.safe_dump(data))
    assert names["report"].stored_bits > 4  # type: ignore[attr-defined]
    job = ptq_job(tmp_path / "ptq.yaml")
    assert job.tokens.shape == (2, 4) and job.plan.skip == ("*.layers.0.*",)


@pytest.mark.parametrize("page", sorted((DOCS / "ptq").glob("*.md")), ids=lambda page: page.stem)
def test_recipes_of_pages_are_recipes(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert recipe(yaml.safe_load(block.text))
