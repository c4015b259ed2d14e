"""Weights without multipliers: a 64 x 64 layer in several classes of weights, predicted beside what Yosys gives.

Inputs have 8 bits, and 64 products are made in a cycle (16 x 4 lanes): one DSP block a product makes 64.
"""

from __future__ import annotations

from bench.calibration.designs import Case, both, check_cases, errors, misses, show
from bench.common import Figure, main

CLASSES = ("fixed8", "int4p", "log4b9", "ternary", "binary")
LANES = (16, 4)
SCALES = 4  # DSP blocks of multipliers behind the sums, one an output lane, where weights have a real scale


def measure() -> list[Figure]:
    """Synthesize a layer of each class and compare."""
    cases = [Case(name, (64, 64), {**both("fixed8"), "weight": name}, (LANES,)) for name in CLASSES]
    checked = check_cases(cases)
    show(checked)
    found = {one.name: one.synthesised for one in checked}
    return [
        *(Figure(f"weights_{name}_dsp", found[name].dsp, at_most=SCALES) for name in ("log4b9", "ternary", "binary")),
        *(Figure(f"weights_{name}_lut", found[name].lut) for name in CLASSES),
        Figure("weights_lut_worst_error", 100 * errors(checked)["lut"].worst, "%", at_most=25),
        Figure("weights_dsp_wrong_blocks", misses(checked)["dsp"], at_most=0),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
