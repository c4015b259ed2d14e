"""A module that is clean with its default parameters may not be so with others."""

from __future__ import annotations

from pathlib import Path

from emit.lint import lint
from tests.hw.bench import bench
from tests.hw.common.grid import INSTANCES, TOP, sources


def test_no_parameter_set_of_the_grid_has_a_finding(tmp_path: Path) -> None:
    top = tmp_path / f"{TOP}.sv"
    top.write_text(bench(TOP, INSTANCES, sources()))
    findings = [finding for finding in lint([top, *sources()], TOP) if finding.severity != "absent"]
    assert [str(finding) for finding in findings if "mase_" in finding.file] == []
    assert "error" not in {finding.severity for finding in findings}, str(findings[:5])
