"""Lint: every tool finds its fault, an absent tool is reported, and no file of ``hw/`` has a finding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emit import library, names, tools
from emit.lint import LintFinding, lint
from mase.errors import ToolError
from mase.paths import hw_dir

HW = hw_dir()
SOURCES = sorted(HW.rglob("*.sv"))
FOLDERS = sorted({path.parent for path in SOURCES})
CLEAN = "module clean (\n  input wire logic a_i,\n  output logic b_o\n);\n  assign b_o = !a_i;\nendmodule\n"
# pyosys ends the process at an error, so it never runs in ours.
YOSYS = """
import sys
from pyosys import libyosys
top, *files = sys.argv[1:]
verilog = ["read_verilog -sv " + " ".join(files), f"hierarchy -check -top {top}"]
slang = [f"read_slang --top {top} " + " ".join(files)]
for reading in (verilog, slang):
    design = libyosys.Design()
    for command in (*reading, "proc", "check -assert"):
        libyosys.run_pass(command, design)
"""


def tools_that_find(text: str, folder: Path) -> dict[str, LintFinding]:
    """Return the last finding of each tool."""
    path = folder / "clean.sv"
    path.write_text(text)
    return {finding.tool: finding for finding in lint([path], "clean")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_file_of_the_hardware_has_a_finding(path: Path) -> None:
    findings = lint([path], path.stem, FOLDERS)
    assert [str(finding) for finding in findings if finding.severity != "absent"] == []
    assert {finding.tool for finding in findings} <= {"iverilog"}  # the only one that a package index does not have


def test_every_line_has_room_for_the_longest_name_of_a_design() -> None:
    """Emitted library modules carry the name of the top, which may make a line too long for the linters."""
    top = names.identifier("x" * 2 * names.LONGEST, "mase_")
    files = {f"rtl/{path.name}": path.read_text() for path in SOURCES}
    renamed = library.private(top, files, [path.stem for path in SOURCES])
    assert len(renamed) == len(SOURCES)
    for name, text in renamed.items():
        code = [line for line in str(text).splitlines() if not line.lstrip().startswith("//")]
        assert [line for line in code if len(line) > 120] == [], name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_both_front_ends_of_yosys_read_every_file_without_a_warning(path: Path) -> None:
    others = [str(other) for other in SOURCES if other != path]
    command = [sys.executable, "-c", YOSYS, path.stem, str(path), *others]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    assert [line for line in output.splitlines() if line.lower().startswith(("warning", "error"))] == []


def test_a_clean_file_has_no_finding(tmp_path: Path) -> None:
    assert [f for f in tools_that_find(CLEAN, tmp_path).values() if f.severity != "absent"] == []


@pytest.mark.parametrize("name", ["verilator", "slang"])
def test_a_cut_off_value_is_found(name: str, tmp_path: Path) -> None:
    text = CLEAN.replace("input wire logic a_i", "input wire logic [1:0] a_i").replace("!a_i", "2'b01 ^ a_i")
    finding = tools_that_find(text, tmp_path)[name]
    assert (finding.severity, Path(finding.file).name, finding.line) == ("warning", "clean.sv", 5)


def test_verible_finds_a_name_against_the_rules(tmp_path: Path) -> None:
    finding = tools_that_find(CLEAN.replace("clean (", "clean #(parameter int lower_case = 1) ("), tmp_path)["verible"]
    assert (finding.severity, finding.line) == ("warning", 1)
    assert "parameter-name-style" in finding.text


def test_every_tool_finds_a_syntax_error(tmp_path: Path) -> None:
    found = tools_that_find(CLEAN.replace("b_o\n);", "b_o\n;"), tmp_path)
    assert set(found) == {"verilator", "slang", "verible", "iverilog"}
    assert found["verilator"].severity == "error"
    assert found["slang"].severity == "error"


def test_a_missing_module_is_found_and_a_search_folder_mends_it(tmp_path: Path) -> None:
    top, library = tmp_path / "top.sv", tmp_path / "library with a space"
    library.mkdir()
    (library / "clean.sv").write_text(CLEAN)
    top.write_text(
        "module top (\n  input wire logic a_i,\n  output logic b_o\n);\n  clean u_clean (.a_i, .b_o);\nendmodule\n"
    )
    assert {f.tool for f in lint([top], "top") if f.severity == "error"} >= {"verilator", "slang"}
    assert [f for f in lint([top], "top", [library]) if f.severity != "absent"] == []


def test_an_absent_tool_is_a_finding_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> tools.ToolStatus:
        raise ToolError(f"{name}: not found; install it with: install {name}")

    monkeypatch.setattr(tools, "require", missing)
    found = tools_that_find(CLEAN, tmp_path)
    assert {name: finding.severity for name, finding in found.items()} == dict.fromkeys(
        ("verilator", "slang", "verible", "iverilog"), "absent"
    )
    assert found["slang"].text.endswith("install pyslang")


def test_a_finding_reads_like_a_compiler_message() -> None:
    assert str(LintFinding("slang", "warning", "a.sv", 3, "odd")) == "slang: a.sv:3: warning: odd"
    assert str(LintFinding("slang", "absent", "", 0, "gone")) == "slang: absent: gone"


def test_a_tool_that_does_not_start_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyslang").mkdir()
    (tmp_path / "pyslang" / "__init__.py").write_text("raise ImportError('libslang.so: no such file')\n")
    broken = tmp_path / "bin" / "verible-verilog-lint"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'libc.so: version not found'\nexit 127\n")
    broken.chmod(0o755)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": f"{broken.parent}:{tools.search_path()}"}
    monkeypatch.setattr(tools, "child_env", lambda: environment)
    found = tools_that_find(CLEAN, tmp_path)
    for name, text in (("slang", "libslang.so: no such file"), ("verible", "version not found")):
        assert found[name].severity == "absent"
        assert "is installed, but does not start: " in found[name].text
        assert text in found[name].text
