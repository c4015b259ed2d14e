"""The package as others get it: its public names, its pins, its set-up and its wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mase

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED_BY_MAKE = re.findall(r"\w+", re.search(r"\[(.*)\]", EXTRAS["all"][0])[1])
NEEDS = [Requirement(r) for r in PROJECT["dependencies"] + [r for extra in INSTALLED_BY_MAKE for r in EXTRAS[extra]]]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
}


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


class TestPublicNames:
    def test_at_most_twenty_and_all_resolve(self) -> None:
        assert len(mase.__all__) <= 20
        assert [name for name in mase.__all__ if not callable(getattr(mase, name))] == []

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="module 'mase' has no attribute 'trcae'"):
            _ = mase.trcae

    def test_importing_mase_does_not_import_torch(self) -> None:
        code = (
            "import sys, mase; assert 'trace' in dir(mase); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        )
        assert run(sys.executable, "-c", code, cwd=ROOT).returncode == 0


class TestPins:
    @pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
    def test_every_requirement_is_pinned_inside_its_range(self, need: Requirement) -> None:
        assert need.specifier.contains(PINS[canonicalize_name(need.name)])

    def test_torch_is_the_release_that_the_tests_run_with(self) -> None:
        assert PINS["torch"] == "2.13.0"


@pytest.fixture
def few_tools(tmp_path: Path) -> Path:
    """Return a folder to use as PATH, with what set-up needs but for g++."""
    for tool in ("bash", "git", "make", "perl"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    (tmp_path / "python3").symlink_to(sys.executable)
    return tmp_path


def preflight(path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(path / "bash", ROOT / ".ci" / "preflight", env={"PATH": str(path), **env})


class TestSetUp:
    def test_a_missing_compiler_is_one_line_with_its_remedy(self, few_tools: Path) -> None:
        done = preflight(few_tools)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "missing: g++; this mends it: sudo apt-get install -y g++\n"

    def test_make_stops_at_once_when_a_tool_is_missing(self, few_tools: Path, tmp_path: Path) -> None:
        checkout = tmp_path / "a path with spaces"
        (checkout / ".ci").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/preflight"):
            shutil.copy(ROOT / name, checkout / name)
        for tool in ("cat", "cksum", "cut", "nproc"):
            (few_tools / tool).symlink_to(shutil.which(tool) or "")
        done = run(few_tools / "make", "demo", cwd=checkout, env={"PATH": str(few_tools)})
        assert done.returncode != 0
        assert "missing: g++; this mends it: sudo apt-get install -y g++" in done.stderr
        assert not (checkout / ".venv").exists()

    def test_all_tools_present_gives_the_interpreter(self, few_tools: Path) -> None:
        (few_tools / "g++").symlink_to(shutil.which("true") or "")
        assert preflight(few_tools).stdout == "python3\n"

    @pytest.mark.parametrize(
        ("answers", "packages"),
        [
            ("exit 1", "python3.11 python3.11-venv"),
            ('case "$2" in *version_info*) ;; *) exit 1 ;; esac', "python3-venv"),
        ],
        ids=["too old", "no venv"],
    )
    def test_an_unfit_python_names_its_packages(self, few_tools: Path, answers: str, packages: str) -> None:
        unfit = few_tools / "mypython"
        unfit.write_text(f"#!{few_tools / 'bash'}\n{answers}\n")
        unfit.chmod(0o755)
        done = preflight(few_tools, PYTHON="mypython")
        assert f"missing: {packages} g++; this mends it" in done.stderr

    def test_an_absent_python_names_its_packages(self, few_tools: Path) -> None:
        (few_tools / "python3").unlink()
        assert preflight(few_tools).stderr.startswith("missing: python3 python3-venv g++; ")

    def test_make_has_the_promised_targets(self) -> None:
        shown = re.findall(r"^  make (\w+)", run("make", "help", cwd=ROOT).stdout, re.M)
        assert {"install", "demo", "test", "lint", "bench", "clean"} <= set(shown)

    def test_ci_script_is_executable(self) -> None:
        assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.slow
def test_an_installed_wheel_finds_hardware_and_configurations(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, ROOT, check=True)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = tmp_path.glob("mase_dse-*.whl")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, check=True)
    code = "from mase.paths import data_dir as d; print(*(p.relative_to(d()) for p in d().rglob('*.*')), sep='\\n')"
    found = set(run(python, "-I", "-c", code, cwd=tmp_path, check=True).stdout.split())
    ours = {str(path.relative_to(ROOT)) for room in ("hw", "configs") for path in (ROOT / room).rglob("*.*")}
    assert found == ours
    assert {f for f in ours if f.endswith(".sv")}
    assert {f for f in ours if f.endswith(".yaml")}
