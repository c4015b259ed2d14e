"""How much memory this process has held at most."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def peak_mib() -> float:
    """Return the greatest resident memory of this process so far.

    What the operating system tells of a child may be that of the process that started it; Linux has the truth in
    ``/proc``.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
