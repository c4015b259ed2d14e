"""Draw graphs, run each from trace to RTL, and keep what fails as a small case: ``python -m tests.fuzz``."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from tests.fuzz.check import failures
from tests.fuzz.draw import drawn
from tests.fuzz.recipe import Recipe
from tests.fuzz.shrink import shrunk

CASES = Path(__file__).parent / "cases"


def main(arguments: list[str]) -> int:
    """Return 0 where nothing fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=12, help="graphs to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next has the next seed")
    parser.add_argument("--trials", type=int, default=30, help="tries to make a failure smaller")
    parser.add_argument("--cases", type=Path, default=CASES, help="folder that receives failures")
    options = parser.parse_args(arguments)
    recipes = {f"graph{seed}": drawn(seed) for seed in range(options.seed, options.seed + options.graphs)}
    with tempfile.TemporaryDirectory(prefix="mase-fuzz-") as folder:
        found = failures(recipes, Path(folder), lambda text: sys.stdout.write(f"{text}\n"))
    for title, text in found.items():
        sys.stdout.write(f"{title}: {text}\n")
        kept = keep(shrunk(recipes[title], _fails_like(text), options.trials), options.cases)
        sys.stdout.write(f"{title}: kept as {kept}\n")
    sys.stdout.write(f"{len(recipes)} graphs, {len(found)} failures\n")
    return int(bool(found))


def keep(recipe: Recipe, folder: Path) -> Path:
    """Write a recipe where the suite finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(recipe.text().encode()).hexdigest()[:12]}.json"
    path.write_text(recipe.text())
    return path


class _fails_like:  # noqa: N801 - a function with a memory
    """Tell whether a recipe fails in the same way: by the same exception, on a wire, or in its cycles."""

    def __init__(self, text: str) -> None:
        self.way = way(text)

    def __call__(self, recipe: Recipe) -> bool:
        with tempfile.TemporaryDirectory(prefix="mase-fuzz-") as folder:
            found = failures({"shrunk": recipe}, Path(folder))
        return bool(found) and way(found["shrunk"]) == self.way


def way(text: str) -> str:
    """Return the kind of a failure."""
    if "codes differ" in text:
        return "codes"
    return text.split(" ", 1)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
