"""Emitted text beside the size of a layer: 64 x 64 and 1024 x 1024 at 8 x 8 lanes, memories aside.

Lines are those of every SystemVerilog file; instances are counted in the elaborated design (slang), so that a generate
loop counts as often as it turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.common import Figure, main
from bench.models import KINDS, layer
from emit.design import Design
from emit.verilog import emit
from passes.map import Folding

SMALL, LARGE, LANES = 64, 1024, Folding(8, 8)
# slang ends the process on some inputs, so it never runs in ours.
COUNT = """
import json, sys
from pyslang.ast import SymbolKind
from pyslang.driver import Driver
driver = Driver()
driver.addStandardArgs()
assert driver.parseCommandLine(sys.argv[1]) and driver.processOptions() and driver.parseAllSources()
found = []
driver.createCompilation().getRoot().visit(lambda s: found.append(s.kind))
print(json.dumps(sum(kind == SymbolKind.Instance for kind in found)))
"""


def lines(design: Design) -> int:
    """Count the lines of every SystemVerilog file of the folder."""
    return sum(len(path.read_text().splitlines()) for path in design.folder.rglob("*.sv"))


def instances(design: Design) -> int:
    """Count the module instances of the elaborated design, the top included."""
    words = ["slang", "--top", design.top, *(f'"{path}"' for path in design.sources)]
    command = [sys.executable, "-c", COUNT, " ".join(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def counted(size: int, kind: str) -> tuple[int, int]:
    """Return lines and instances of a layer ``size`` x ``size`` in one of ``KINDS``."""
    with tempfile.TemporaryDirectory() as folder:
        design = emit(layer(size, size, LANES, kind), Path(folder) / "design", "layer")
        return lines(design), instances(design)


def figures_of(kind: str) -> list[Figure]:
    """Compare the two sizes."""
    small, large = counted(SMALL, kind), counted(LARGE, kind)
    return [
        Figure(f"scaling_{kind}_lines", large[0], "lines"),
        Figure(f"scaling_{kind}_more_lines", large[0] - small[0], "lines", at_least=0, at_most=0),
        Figure(f"scaling_{kind}_instances", large[1], "instances", at_least=2),
        Figure(f"scaling_{kind}_more_instances", large[1] - small[1], "instances", at_least=0, at_most=0),
    ]


def measure() -> list[Figure]:
    """Compare in every kind of arithmetic."""
    return [figure for kind in KINDS for figure in figures_of(kind)]


if __name__ == "__main__":
    main(__doc__, measure)
