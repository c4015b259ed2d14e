"""Import time: what `mase` and its whole public API add to `import torch`.

CPU seconds of fresh interpreters, medians of 5. The API is lazy, so `import mase` alone is measured too.
"""

from __future__ import annotations

import subprocess
import sys

from bench.common import Figure, main, median_cpu_seconds


def seconds(code: str) -> float:
    """Return the CPU seconds of a fresh interpreter that runs ``code``."""
    return median_cpu_seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def measure() -> list[Figure]:
    """Time interpreters that import more and more."""
    bare, torch, light = seconds("pass"), seconds("import torch"), seconds("import mase")
    full = seconds("import torch, mase; [getattr(mase, name) for name in mase.__all__]")
    return [
        Figure("import_torch", torch - bare, "s"),
        Figure("import_mase_alone", light - bare, "s"),
        Figure("import_mase_added_to_torch", full - torch, "s", at_most=1.5),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
