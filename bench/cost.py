"""Cost model: predicted resources of whole designs beside what Yosys gives, for UltraScale+.

The designs are perceptrons with random weights in several formats and foldings, and the one that the quickstart finds;
none of them is among the blocks that the model is fitted to (``python -m bench.calibration``). Two at a time.
"""

from __future__ import annotations

from bench.calibration.designs import check, errors, misses, show
from bench.common import Figure, main


def measure() -> list[Figure]:
    """Synthesize every design and compare."""
    checked = check()
    show(checked)
    off, wrong = errors(checked), misses(checked)
    return [
        *(Figure(f"cost_{name}_median_error", 100 * off[name].median, "%", at_most=10) for name in ("lut", "ff")),
        *(Figure(f"cost_{name}_worst_error", 100 * off[name].worst, "%", at_most=25) for name in ("lut", "ff")),
        *(Figure(f"cost_{name}_wrong_blocks", wrong[name], at_most=0) for name in ("dsp", "bram")),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
