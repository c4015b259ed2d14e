"""Exact emulation: samples per CPU second of ``mase.emulate`` on a 16-64-32-32-5 perceptron, one thread.

Real values in, real values out, encoding and decoding included; 65,536 samples a call.
"""

from __future__ import annotations

from functools import partial

from bench.common import Figure, main, median_cpu_seconds
from bench.models import KINDS, quantized, rows
from mase.flow import emulate

SAMPLES = 1 << 16


def measure() -> list[Figure]:
    """Time every kind of arithmetic."""
    x = rows(SAMPLES).x
    figures = []
    for kind in KINDS:
        seconds = median_cpu_seconds(partial(emulate, quantized(kind), x))
        figures.append(Figure(f"emulate_{kind}_rate", SAMPLES / seconds, "samples/CPU s", at_least=100_000))
    return figures


if __name__ == "__main__":
    main(__doc__, measure)
