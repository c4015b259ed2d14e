"""What the benches share: figures with their bars, CPU time, a table and a JSON file.

A bench is a script ``bench/<what>.py`` that ends in ``main(__doc__, measure)``; one that takes minutes lies in
``bench/long/``. It runs as ``python -m bench.<what>``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LOG_WIDTH = 120  # of tables that go into a file: no name is cut


class FigureJson(TypedDict):
    """A figure as it is written to JSON, under its name."""

    value: float
    unit: str
    bar: str  # such as "<= 1.5"; empty: a yardstick or a fact without a bar
    holds: bool


@dataclass(frozen=True)
class Figure:
    """A measured number beside its bar.

    Args:
        name: lower case with underscores, unique over all benches, such as ``emulate_mlp_rate``.
        value: what was measured.
        unit: such as ``s``, ``samples/s``, ``x copy_``; empty for a count.
        at_least: the smallest value that is good enough.
        at_most: the largest one; with both equal, the value must be exactly that.
    """

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bar(self) -> str:
        """Return the bar in words, such as ``<= 1.5``; empty without one."""
        if self.at_least is not None and self.at_least == self.at_most:
            return f"= {self.at_least:,g}"
        low = [] if self.at_least is None else [f">= {self.at_least:,g}"]
        high = [] if self.at_most is None else [f"<= {self.at_most:,g}"]
        return " and ".join(low + high)

    @property
    def holds(self) -> bool:
        """Return whether the value is a number within its bars."""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    def to_json(self) -> FigureJson:
        """Return what ``--json`` writes under the figure's name."""
        return {"value": self.value, "unit": self.unit, "bar": self.bar, "holds": self.holds}


def cpu_seconds() -> float:
    """Return the CPU seconds, user and system, of this process and of its children that have ended."""
    return _used(resource.RUSAGE_SELF) + children_cpu_seconds()


def children_cpu_seconds() -> float:
    """Return the CPU seconds, user and system, of the children that have ended."""
    return _used(resource.RUSAGE_CHILDREN)


def _used(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def median_cpu_seconds(work: Callable[[], object], repeats: int = 5, warm_ups: int = 1) -> float:
    """Return the median CPU seconds of ``work``; other programs on the machine disturb these less than wall time."""
    for _ in range(warm_ups):
        work()
    return statistics.median(_cpu_seconds_of(work) for _ in range(repeats))


def _cpu_seconds_of(work: Callable[[], object]) -> float:
    start = cpu_seconds()
    work()
    return cpu_seconds() - start


def in_fresh_process(module: str, function: str, *args: str, **environment: str) -> Any:  # whatever it returns
    """Return what a function gives, as JSON carries it, in an interpreter of its own that has nothing cached yet.

    Args:
        args: of the function. environment: variables that differ from those of this process.
    """
    code = (
        "import importlib, json, sys, torch; torch.set_num_threads(1); module, function, *args = sys.argv[1:]; "
        "print(json.dumps(getattr(importlib.import_module(module), function)(*args)))"
    )
    command = [sys.executable, "-c", code, module, function, *args]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def merge(figures: Sequence[Figure]) -> dict[str, FigureJson]:
    """Return the figures by name; a name that comes twice is an error."""
    by_name = {figure.name: figure.to_json() for figure in figures}
    if len(by_name) < len(figures):
        raise ValueError(f"two figures have one name: {sorted(figure.name for figure in figures)}")
    return by_name


def shown(value: float) -> str:
    """Return a value with four significant digits, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def print_table(title: str, figures: Mapping[str, FigureJson]) -> None:
    """Print each figure beside its bar."""
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "value", "unit", "bar", ""):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for name, figure in figures.items():
        verdict = "" if not figure["bar"] else "[green]holds" if figure["holds"] else "[bold red]MISSED"
        table.add_row(name, shown(figure["value"]), figure["unit"], figure["bar"], verdict)
    console = Console()
    (console if console.is_terminal else Console(width=LOG_WIDTH)).print(table)


def write_json(path: Path, figures: Mapping[str, FigureJson]) -> None:
    """Write the figures to ``path``, which is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def main(description: str | None, measure: Callable[[], Sequence[Figure]]) -> None:
    """Run one bench as a program: measure on one thread, print the table, write ``--json FILE``.

    Exit code 1 says that a bar is missed.

    Args:
        description: the script's docstring; its first line is the table's title.
        measure: returns the figures.
    """
    text = (description or "").strip()
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: {value, unit, bar, holds}} here")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that the bench starts
    torch.set_num_threads(1)
    figures = merge(measure())
    print_table(text.partition("\n")[0], figures)
    if options.json:
        write_json(options.json, figures)
    sys.exit(0 if all(figure["holds"] for figure in figures.values()) else 1)
