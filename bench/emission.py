"""Emission of a 16-64-32-32-5 perceptron: CPU time of a first one, and whether a second one has the same bytes.

The time is that of a fresh interpreter in which nothing is kept from an earlier emission: choice of lanes and FIFO
depths, then all files. The second emission runs in yet another one, into another folder, with other string hashes.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from bench.common import Figure, cpu_seconds, in_fresh_process, main
from bench.models import INTERVAL, KINDS, quantized
from emit.verilog import emit
from passes.map import MapConfig, map_graph


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def emission(kind: str) -> tuple[float, dict[str, str]]:
    """Map and emit in one of ``KINDS``; return CPU seconds and the digests of the files."""
    graph = quantized(kind)
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name) / "design", cpu_seconds()
        emit(map_graph(graph, MapConfig(interval=INTERVAL))[0], folder, "perceptron")
        return cpu_seconds() - start, digests(folder)


def figures_of(kind: str) -> list[Figure]:
    """Emit twice."""
    seconds, first = in_fresh_process("bench.emission", "emission", kind, PYTHONHASHSEED="1")
    _, second = in_fresh_process("bench.emission", "emission", kind, PYTHONHASHSEED="2")
    different = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    return [
        Figure(f"emission_{kind}_time", seconds, "s", at_most=2.0),
        Figure(f"emission_{kind}_files", len(first), "files", at_least=1),
        Figure(f"emission_{kind}_files_that_differ", len(different), "files", at_least=0, at_most=0),
    ]


def measure() -> list[Figure]:
    """Emit every kind of arithmetic."""
    return [figure for kind in KINDS for figure in figures_of(kind)]


if __name__ == "__main__":
    main(__doc__, measure)
