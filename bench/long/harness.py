"""Simulation of one layer of 2,048 multipliers: clock cycles per CPU second of the simulation program.

A linear layer 512 x 256 at 64 x 32 lanes, built with -O2 -march=native: integers with a scale a channel, so 32 output
multipliers requantize besides, and block exponents with a normaliser behind. CPU time is that of the running program
alone, start, memories and files of every edge included, the compilation not; outputs are compared with the integer
reference, so the figure is of a simulation that is right.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bench.common import Figure, children_cpu_seconds, main
from bench.models import layer
from emit.sim import FAST, Job, compiled, simulate_many
from emit.verilog import emit
from mase.interpreter import run
from passes.map import Folding

INPUTS, OUTPUTS, LANES = 512, 256, Folding(64, 32)
SAMPLES = 8_000  # of 64 cycles
KINDS = ("int", "mxint")


def figures_of(kind: str) -> list[Figure]:
    """Emit, compile, simulate, compare."""
    graph = layer(INPUTS, OUTPUTS, LANES, kind)
    x = torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        design = emit(graph, Path(folder) / "design", "layer")
        compiled([design], FAST)
        start = children_cpu_seconds()
        result = simulate_many([Job(design, design.encode(x))], FAST)[0]
        seconds = children_cpu_seconds() - start
    cycles = result.completions[-1] + 1
    wrong = int((run(graph, (x,)).real(graph.output.inputs[0].name) != result.output).sum())
    return [
        Figure(f"harness_{kind}_cycles", cycles, "cycles"),
        Figure(f"harness_{kind}_rate", cycles / seconds, "cycles/CPU s", at_least=80_000),
        Figure(f"harness_{kind}_wrong_values", wrong, "", at_least=0, at_most=0),
    ]


def measure() -> list[Figure]:
    """Simulate both."""
    return [figure for kind in KINDS for figure in figures_of(kind)]


if __name__ == "__main__":
    main(__doc__, measure)
