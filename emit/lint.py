"""Lint SystemVerilog with every parser that is installed. No file of ours and no emitted file may have a finding."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emit import children, tools
from mase.errors import ToolError
from mase.paths import hw_dir

Severity = Literal["error", "warning", "absent"]

TIMEOUT_SECONDS = 300
# slang ends the process on some inputs, so it never runs in ours.
SLANG = """
import sys
from pyslang.driver import Driver
driver = Driver()
driver.addStandardArgs()
ok = driver.parseCommandLine(sys.argv[1]) and driver.processOptions() and driver.parseAllSources()
sys.exit(0 if ok and driver.runFullCompilation(True) else 1)
"""


@dataclass(frozen=True)
class LintFinding:
    """What one parser says of one line, or that the parser could not look.

    Args:
        tool: verilator, slang, verible or iverilog.
        severity: ``absent`` means that the tool is not installed, or does not start; ``text`` says what to do.
        file: as the tool names it; empty if it names none.
        line: from 1; 0 if the tool names none.
        text: one line, the name of the rule included.
    """

    tool: str
    severity: Severity
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        return f"{self.tool}: {place}{self.severity}: {self.text}"


def lint(files: Sequence[Path], top: str | None = None, search: Sequence[Path] = ()) -> list[LintFinding]:
    """Return every finding of Verilator, slang, Verible and Icarus; an empty list means that all four are content.

    Args:
        files: the sources that are judged.
        top: the module to elaborate; each tool chooses if none is given.
        search: folders in which modules that ``files`` do not define are found, by their name.

    Raises:
        ToolError: a tool ran longer than five minutes.
    """
    arguments = ([str(path) for path in files], top, [str(path) for path in search])
    return [*_verilator(*arguments), *_slang(*arguments), *_verible(arguments[0]), *_icarus(*arguments)]


def _verilator(files: list[str], top: str | None, search: list[str]) -> Iterator[LintFinding]:
    if absent := _absent("verilator", "perl", as_name="verilator"):
        return iter([absent])
    found = tools.verilator()
    command = [*found.command, "--lint-only", "-Wall", "--quiet", *_flags("--top-module", top)]
    command += [*_each("-y", search), *files]
    place = r"(?:(?P<file>[^:]+):(?P<line>\d+):\d+: )?"
    pattern = re.compile(rf"%(?P<severity>Warning|Error)(?P<rule>-\w+)?: {place}(?P<text>.*)")
    return _findings("verilator", command, found.env, pattern, [*found.command, "--version"])


def _slang(files: list[str], top: str | None, search: list[str]) -> Iterator[LintFinding]:
    if absent := _absent("pyslang", as_name="slang"):
        return iter([absent])
    # A cast to a parameter's width is useless at some values of the parameter and needed at others.
    words = ["-Wextra", "-Wno-useless-cast", *_flags("--top", top), *_each("-y", search), *files]
    line = "slang " + " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    pattern = re.compile(r"(?:(?P<file>[^:]+):(?P<line>\d+):\d+: )?(?P<severity>warning|error): (?P<text>.*)")
    probe = [sys.executable, "-c", SLANG.split("driver = ", maxsplit=1)[0]]
    return _findings("slang", [sys.executable, "-c", SLANG, line], tools.child_env(), pattern, probe)


def _verible(files: list[str]) -> Iterator[LintFinding]:
    if absent := _absent("verible"):
        return iter([absent])
    command = ["verible-verilog-lint", f"--rules_config={hw_dir() / 'verible.rules'}", *files]
    pattern = re.compile(r"(?P<file>[^:]+):(?P<line>\d+):\d+(?:-\d+)?: (?P<text>.*)")
    return _findings("verible", command, tools.child_env(), pattern, [command[0], "--version"])


def _icarus(files: list[str], top: str | None, search: list[str]) -> Iterator[LintFinding]:
    if absent := _absent("iverilog"):
        return iter([absent])
    command = ["iverilog", "-g2012", "-Wall", "-Wno-timescale", "-t", "null", *_flags("-s", top)]
    command += [*_each("-y", search), "-Y", ".sv", *files]
    pattern = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): (?:(?P<severity>warning|error|sorry): )?(?P<text>.*)")
    return _findings("iverilog", command, tools.child_env(), pattern, ["iverilog", "-V"])


def _absent(*needed: str, as_name: str = "") -> LintFinding | None:
    """Return the finding that says which of the needed programs is missing; None if all are there."""
    for name in needed:
        try:
            tools.require(name)
        except ToolError as error:
            return LintFinding(as_name or name, "absent", "", 0, str(error))
    return None


def _flags(flag: str, value: str | None) -> list[str]:
    """Return a flag with its value, or nothing."""
    return [] if value is None else [flag, value]


def _each(flag: str, values: Sequence[str]) -> list[str]:
    """Return the flag before each value."""
    return [word for value in values for word in (flag, value)]


def _run(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a tool, its two outputs as one text; one that cannot be started has exit code 126 or 127."""
    try:
        return children.run(command, env=env, timeout_seconds=TIMEOUT_SECONDS, joined=True)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{Path(command[0]).name}: no result after {TIMEOUT_SECONDS} s") from error


def _findings(
    tool: str, command: list[str], env: Mapping[str, str], pattern: re.Pattern[str], probe: list[str]
) -> Iterator[LintFinding]:
    """Run a tool and yield its findings; a failure that says nothing known is one error with its last words.

    Args:
        probe: a command that only starts the tool; where that fails too, the tool is as good as absent.
    """
    done, found = _run(command, env), False
    for match in filter(None, map(pattern.match, done.stdout.splitlines())):
        parts = match.groupdict()
        found = True
        severity: Severity = "error" if parts.get("severity") in {"error", "Error", "sorry"} else "warning"
        text = f"{parts['text']}{' [' + parts['rule'][1:] + ']' if parts.get('rule') else ''}"
        yield LintFinding(tool, severity, parts["file"] or "", int(parts["line"] or 0), text)
    if done.returncode and not found:
        words = " ".join(done.stdout.split())[-300:]
        if _run(probe, env).returncode:
            yield LintFinding(tool, "absent", "", 0, f"is installed, but does not start: {words}")
            return
        yield LintFinding(tool, "error", "", 0, f"exit code {done.returncode}: {words}")
