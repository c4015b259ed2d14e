"""The peak memory of a process is its own, and stays."""

from __future__ import annotations

import subprocess
import sys

CHILD = """
from mase.peak import peak_mib
before = peak_mib()
held = b"x" * (96 << 20)
del held
print(before, peak_mib())
"""


def test_a_child_has_what_it_touched_and_not_what_its_parent_holds() -> None:
    held = b"x" * (200 << 20)
    found = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True).stdout.split()
    before, after = map(float, found)
    assert len(held) == 200 << 20
    assert 1 < before < 150  # MiB; the parent has more
    assert after > before + 64
