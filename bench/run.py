"""Run every quick bench, each in its own process, and print all figures beside their bars."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.common import FigureJson, print_table, shown, write_json

FOLDER = Path(__file__).resolve().parent
NOT_BENCHES = {"__init__", "common", "models", "run", "smollm2_folder"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """What one bench gave: its figures, or none when it broke before it wrote them."""

    name: str
    seconds: float
    figures: dict[str, FigureJson] | None


def bench_names(folder: Path = FOLDER, *, long: bool = False) -> list[str]:
    """Return the benches in ``folder``, as ``emulate`` or ``long.search``: the quick ones, or all with ``long``."""
    quick = [path.stem for path in sorted(folder.glob("*.py")) if path.stem not in NOT_BENCHES]
    slow = [f"long.{path.stem}" for path in sorted(folder.glob("long/*.py")) if path.stem != "__init__"]
    return quick + (slow if long else [])


def run_bench(name: str, root: Path = FOLDER.parent) -> Outcome:
    """Run one bench in a process of its own, on one thread, with its output on the screen; it may fail.

    Args:
        root: folder that holds ``bench/``.
    """
    print(f"\n== {name}", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"bench.{name}", "--json", str(path)]
        subprocess.run(command, cwd=root, env={**os.environ, **ONE_THREAD}, check=False)
        figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return Outcome(name, time.perf_counter() - start, figures)


def summary(outcomes: Sequence[Outcome]) -> tuple[dict[str, FigureJson], list[str]]:
    """Return all figures, and a line for each bench that broke and each bar that was missed."""
    figures: dict[str, FigureJson] = {}
    problems = []
    for outcome in outcomes:
        if outcome.figures is None:
            problems.append(f"{outcome.name}: ended without figures")
            continue
        twice = figures.keys() & outcome.figures.keys()
        problems += [f"{outcome.name}: {name} was given by another bench too" for name in sorted(twice)]
        problems += [
            f"{outcome.name}: {name} is {shown(figure['value'])} {figure['unit']}, wanted {figure['bar']}"
            for name, figure in outcome.figures.items()
            if not figure["holds"]
        ]
        figures |= outcome.figures
    return figures, problems


def main() -> None:
    """Run the benches that the command line names; exit code 1 if one breaks or misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as emulate; all quick ones when none is named")
    parser.add_argument("--long", action="store_true", help="those in bench/long too (minutes each)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    known = bench_names(long=True)
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no bench is called {', '.join(unknown)}; there are {', '.join(known)}")
    outcomes = [run_bench(name) for name in options.names or bench_names(long=options.long)]
    figures, problems = summary(outcomes)
    print()
    print_table(f"{len(outcomes)} benches in {sum(o.seconds for o in outcomes):.0f} s", figures)
    if options.json:
        write_json(options.json, figures)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
