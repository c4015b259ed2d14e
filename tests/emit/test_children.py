"""A program that is killed leaves no process of its own behind: a simulation and a synthesis may take hours."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import mase
from emit.sim import QUICK, compiled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal to orphans is Linux's")
ROOT = Path(__file__).parents[2]


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def within(seconds: float, seen: object) -> bool:
    """Tell whether a function comes to say yes."""
    assert callable(seen)
    end = time.monotonic() + seconds
    while not (found := bool(seen())) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def assert_dies_with_its_parent(code: str, ready: Path) -> None:
    """Run code that starts one child, kill it as soon as the child runs, and look for the child."""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        assert within(30, ready.exists)
        (child,) = children(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    assert within(10, lambda: not alive(child))


def test_a_synthesis_dies_with_its_parent(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    sleeping = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    code = (
        "from pathlib import Path\nfrom emit import synth\n"
        f"synth.CHILD = synth.CHILD.split('from pyosys')[0] + {sleeping!r}\n"
        f"synth._child([str(1 << 33)], Path({str(tmp_path)!r}), 60)\n"
    )
    assert_dies_with_its_parent(code, ready)


@pytest.mark.sim
def test_a_simulation_dies_with_its_parent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    graph = mase.trace(nn.Linear(4, 2).eval(), x)
    graph = mase.quantize(graph, {"default": {"weight": "int4", "activation": "fixed4.2"}}, calib=[x])
    design = mase.emit(graph, tmp_path / "design")
    program, job = compiled([design], QUICK), tmp_path / "job"
    (tmp_path / "mem").symlink_to(design.folder / "mem")
    design.input.stream.pack(design.encode(x[:1])).tofile(tmp_path / "0.in")
    job.write_text("1\n1 0 1000 1 0 0\n1000000000000 0 0\n")  # the sink is never ready, and nobody minds
    code = f"import subprocess; subprocess.run({[str(program), str(job), str(tmp_path)]!r}, cwd={str(tmp_path)!r})"
    assert_dies_with_its_parent(code, tmp_path / f"0.{design.output.signal}.bin")
