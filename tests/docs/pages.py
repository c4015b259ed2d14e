"""Read the pages of ``docs/``, and do what they tell a reader to do.

A fenced block whose first line ends in ``file=PATH`` is a file; ``sh`` blocks are commands, ``python`` blocks are run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ROOMS = ("mase", "passes", "emit", "hw", "configs", "tests", "docs")
LEAVE = shutil.ignore_patterns("__pycache__", "golden", "sim_build", "*.pyc")


@dataclass(frozen=True)
class Block:
    """A fenced block: what its first line says, and its text; ``line`` is where the text begins."""

    language: str
    file: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(match[1], match[2] or "", match[3], text.count("\n", 0, match.start()) + 2)


def execute(block: Block, page: Path, names: dict[str, object]) -> None:
    """Run a Python block in a name space; errors point at the line of the page."""
    exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def checkout(folder: Path) -> Path:
    """Copy what a developer works in, but for the golden vectors; return the folder."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=LEAVE)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def write(block: Block, folder: Path) -> None:
    """Write the file that a block holds."""
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def shell(text: str, folder: Path, code: Path = ROOT, status: int = 0) -> str:
    """Run commands in a folder, with ``python`` and ``mase`` those of ``code``; return the output."""
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    for name, arguments in (("python", ""), ("mase", "-c 'from mase.cli import main; main()'")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(code), "COLUMNS": "120"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == status, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def follow(page: Path, folder: Path, code: Path = ROOT) -> None:
    """Do all that a page says, from top to bottom: write its files, run its commands and its Python."""
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.file:
            write(block, folder)
        elif block.language == "sh":
            shell(block.text, folder, code)
        elif block.language == "python":
            with contextlib.chdir(folder):
                execute(block, page, names)
