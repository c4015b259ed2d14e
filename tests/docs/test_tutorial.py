"""The tutorial, followed from top to bottom in an empty folder."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, follow


@pytest.mark.sim
@pytest.mark.slow
def test_following_the_tutorial_ends_with_proven_rtl(tmp_path: Path) -> None:
    follow(DOCS / "tutorial.md", tmp_path)
    suite = ET.parse(tmp_path / "proof.xml").getroot().find("testsuite")
    assert suite is not None
    assert suite.attrib["failures"] == "0"
    names = {path.name for path in (tmp_path / "runs" / "tumours" / "rtl").iterdir()}
    assert {"README.md", "files.f", "mase_tumours.core", "design.json", "rtl", "mem", "scripts", "vectors"} <= names
    assert (tmp_path / "runs" / "by_hand" / "rtl" / "design.json").is_file()
