"""A program that is killed leaves no process of its own behind: not even what those that it started have started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import mase
from emit.children import run
from emit.sim import QUICK, _call_all, compiled
from mase.errors import ToolError
from tests.processes import alive, children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal to orphans is Linux's")
ROOT = Path(__file__).parents[2]


def family(pid: int) -> dict[int, str]:
    """Return number and name of every child of a process, and of all in their sessions."""
    own, found = children(pid), {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:  # it has ended meanwhile
            continue
        if int(stat.parent.name) in own or int(tail.split()[3]) in own:
            found[int(stat.parent.name)] = head.partition("(")[2]
    return found


def within(seconds: float, seen: object) -> bool:
    """Tell whether a function comes to say yes."""
    assert callable(seen)
    end = time.monotonic() + seconds
    while not (found := bool(seen())) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def assert_dies_with_its_parent(code: str, ready: Callable[[int], bool], name: str) -> None:
    """Run code that starts a program, kill it as soon as that program runs, and look for all that it started."""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        assert within(30, lambda: ready(parent.pid))
        started = family(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    assert name in started.values()
    assert within(2, lambda: not any(map(alive, started)))


def test_a_synthesis_dies_with_its_parent(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    sleeping = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    code = (
        "from pathlib import Path\nfrom emit import synth\n"
        f"synth.CHILD = synth.CHILD.split('from pyosys')[0] + {sleeping!r}\n"
        f"synth._child([str(1 << 33)], Path({str(tmp_path)!r}), 60)\n"
    )
    assert_dies_with_its_parent(code, lambda pid: ready.exists(), Path(sys.executable).name[:15])


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_compiler_dies_with_the_program_that_started_it_and_so_does_what_the_compiler_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.cpp")  # the compiler proper waits for a line of it
    command = ["g++", "-c", str(tmp_path / "endless.cpp"), "-o", "endless.o"]
    code = f"from pathlib import Path\nfrom emit import sim\nsim._call_all([{command!r}] * 2, Path({str(tmp_path)!r}))"
    assert_dies_with_its_parent(code, lambda pid: list(family(pid).values()).count("cc1plus") == 2, "cc1plus")


def test_the_first_program_that_fails_ends_the_others_and_none_starts_after_it(tmp_path: Path) -> None:
    start, marker = time.monotonic(), tmp_path / "late"
    waiting = [["sh", "-c", "sleep 0.3; exit 7"], ["sh", "-c", "sleep 60 & sleep 60"], *[["sleep", "60"]] * 8]
    with pytest.raises(ToolError, match="sh: exit code 7"):
        _call_all([*waiting, ["touch", str(marker)]], tmp_path)
    assert time.monotonic() - start < 20
    assert not marker.exists()
    assert not children(os.getpid())


def test_a_program_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", f"(sleep 1; touch {tmp_path / 'late'}) & sleep 60"], timeout_seconds=0.2)
    time.sleep(1.2)
    assert not (tmp_path / "late").exists()


def test_what_a_program_says_and_how_it_ended_is_told() -> None:
    done = run(["sh", "-c", "echo out; echo wrong >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "wrong\n")
    assert run(["sh", "-c", "echo out; echo wrong >&2"], joined=True).stdout == "out\nwrong\n"
    assert run(["sh", "-c", "kill -SEGV $$"]).returncode == -signal.SIGSEGV
    assert run(["/no/such/program"]).returncode == 127
    assert run(["cat"]).stdout == ""  # nobody types


@pytest.mark.sim
def test_a_simulation_dies_with_its_parent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    graph = mase.trace(nn.Linear(4, 2).eval(), x)
    graph = mase.quantize(graph, {"default": {"weight": "int4", "activation": "fixed4.2"}}, calib=[x])
    design = mase.emit(graph, tmp_path / "design")
    program, job = compiled([design], QUICK), tmp_path / "job"
    (tmp_path / "mem").symlink_to(design.folder / "mem")
    design.input.stream.pack(design.encode(x[:1])[0]).tofile(tmp_path / "0.in.in")
    job.write_text("1\n1 1 0 0 0 1000 0\n1000000000000 0 0\n")  # the sink is never ready, and nobody minds
    code = f"import subprocess; subprocess.run({[str(program), str(job), str(tmp_path)]!r}, cwd={str(tmp_path)!r})"
    ready = tmp_path / f"0.{design.output.signal}.bin"
    assert_dies_with_its_parent(code, lambda pid: ready.exists(), "sim")
