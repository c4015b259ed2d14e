"""Drive and watch valid/ready streams from cocotb, and run such a test on a compiled block.

All writes happen at the falling edge and all reads in the read-only phase after it, when everything has settled:
what is seen there is what the next rising edge takes. So no test depends on the order in which a simulator runs its
processes. A cycle is numbered by its falling edge; only differences of cycles mean something.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from unittest import mock

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject, Immediate, LogicArrayObject, LogicObject
from cocotb.triggers import FallingEdge, ReadOnly, Timer
from cocotb.utils import get_sim_time

from emit import tools

PERIOD_NS = 2
RUNTIME = ("verilated.o", "verilated_dpi.o", "verilated_vpi.o", "verilated_threads.o")  # no model changes these
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Beat:
    """One beat that moved, in which cycle; ``last`` is None on a stream without that signal."""

    cycle: int
    data: int
    last: int | None = None


@dataclass(frozen=True)
class Stream:
    """The signals of one stream of a block, which takes it (``enters``) or gives it."""

    enters: bool
    clock: LogicObject
    valid: LogicObject
    ready: LogicObject
    data: LogicArrayObject
    last: LogicObject | None

    @staticmethod
    def of(dut: HierarchyObject, name: str, scope: str = "") -> Stream:
        """Return stream ``name`` (such as ``in``) of the top, or of one scope of a bench, whatever its direction."""
        block = getattr(dut, scope) if scope else dut
        for into, out in (("i", "o"), ("o", "i")):
            valid, ready = (getattr(block, f"{name}_{signal}", None) for signal in (f"valid_{into}", f"ready_{out}"))
            if valid is not None and ready is not None:
                last = getattr(block, f"{name}_last_{into}", None)
                return Stream(into == "i", dut.clk_i, valid, ready, getattr(block, f"{name}_data_{into}"), last)
        raise AssertionError(f"{block._path}: no stream {name}")


def cycle() -> int:
    """Return the number of the present cycle."""
    return int(get_sim_time("ns")) // PERIOD_NS


def pack(values: Sequence[int], width: int) -> int:
    """Return integers as one word, ``width`` bits each in two's complement, element 0 lowest."""
    mask = (1 << width) - 1
    return sum((value & mask) << (i * width) for i, value in enumerate(values))


async def start(dut: HierarchyObject) -> None:
    """Start the clock, silence every stream of the top and of its scopes, and reset; end at a falling edge."""
    for block in (dut, *(child for child in dut if isinstance(child, HierarchyObject))):
        for name in (signal._name for signal in block if isinstance(signal, LogicObject)):
            if name.endswith(("valid_i", "ready_i", "take_i", "push_i")):
                getattr(block, name).value = 0
    dut.clk_i.set(Immediate(0))  # before the simulator evaluates noise as a first edge
    dut.rst_ni.set(Immediate(0))
    for level in (1, 0):  # the reset is asynchronous: it begins with an edge, before any of the clock
        dut.rst_ni.value = level
        await Timer(100, "ps")
    Clock(dut.clk_i, PERIOD_NS, unit="ns").start()
    await reset(dut)


async def reset(dut: HierarchyObject) -> None:
    """Hold reset for one cycle; end at a falling edge, before the first cycle in which a beat can move.

    A longer one would also clear shift registers that have no reset of their own.
    """
    dut.rst_ni.value = 0
    await FallingEdge(dut.clk_i)
    dut.rst_ni.value = 1


async def send(stream: Stream, words: Sequence[int], stall: float = 0.0, rng: Random | None = None) -> list[int]:
    """Offer each word until it is taken; between words ``valid`` is low and data is noise.

    Args:
        stream: an input of the block.
        words: data of each beat.
        stall: probability of an idle cycle before each beat, 0..1.
        rng: source of the idle cycles; seeded with 1 by default.

    Returns:
        The cycle in which each beat moved.
    """
    rng = rng or Random(1)
    width, moved, offered = len(stream.data), list[int](), False
    while len(moved) < len(words):
        if not offered:
            offered = rng.random() >= stall
            stream.valid.value = int(offered)
            stream.data.value = words[len(moved)] if offered else rng.getrandbits(width)
        await ReadOnly()
        if offered and int(stream.ready.value):
            moved.append(cycle())
            offered = False
        await FallingEdge(stream.clock)
    stream.valid.value = 0
    return moved


async def receive(stream: Stream, count: int, stall: float = 0.0, rng: Random | None = None) -> list[Beat]:
    """Take ``count`` beats; fail if an offered beat changes or is withdrawn before it is taken.

    Args:
        stream: an output of the block.
        count: beats to take.
        stall: probability that a cycle is not ready, 0..1.
        rng: source of those cycles; seeded with 2 by default.
    """
    rng = rng or Random(2)
    beats, waiting = list[Beat](), None
    while len(beats) < count:
        ready = rng.random() >= stall
        stream.ready.value = int(ready)
        await ReadOnly()
        if int(stream.valid.value):
            last = None if stream.last is None else int(stream.last.value)
            offer = (int(stream.data.value), last)
            assert waiting in (None, offer), f"cycle {cycle()}: {waiting} became {offer} before it was taken"
            waiting = None if ready else offer
            if ready:
                beats.append(Beat(cycle(), *offer))
        else:
            assert waiting is None, f"cycle {cycle()}: {waiting} was withdrawn before it was taken"
        await FallingEdge(stream.clock)
    stream.ready.value = 0
    return beats


async def transfer(
    source: Stream,
    sink: Stream,
    words: Sequence[int],
    count: int,
    stalls: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> tuple[list[int], list[Beat]]:
    """Send ``words`` through a block and take ``count`` beats from it; return what ``send`` and ``receive`` return."""
    sending = cocotb.start_soon(send(source, words, stalls[0], Random(2 * seed + 1)))
    beats = await receive(sink, count, stalls[1], Random(2 * seed + 2))
    return await sending, beats


async def check_registered(*streams: Stream, cycles: int, seed: int = 0) -> None:
    """Fail if ``ready_o`` of an input or ``valid_o`` of an output follows an input of the handshakes within a cycle.

    The inputs of a join move together: ``ready_o`` of one may follow ``valid_i`` of the others.

    Args:
        streams: all of the block, in any order.
    """
    rng, offers = Random(seed), dict[int, int]()
    inputs = [i for i, stream in enumerate(streams) if stream.enters]
    for _ in range(cycles):
        for i in inputs:
            if i not in offers and rng.random() < 0.6:
                offers[i] = rng.getrandbits(len(streams[i].data))
        last = tuple(int(i in offers if stream.enters else rng.random() < 0.5) for i, stream in enumerate(streams))
        seen = dict[tuple[int, tuple[int, ...]], set[int]]()
        for levels in (*product((0, 1), repeat=len(streams)), last):  # the last one counts at the rising edge
            for i, (stream, level) in enumerate(zip(streams, levels, strict=True)):
                (stream.valid if stream.enters else stream.ready).value = level
                if stream.enters:
                    stream.data.value = offers[i] if i in offers else rng.getrandbits(len(stream.data))
            await Timer(50, "ps")
            for i, stream in enumerate(streams):
                others = tuple(levels[k] for k in inputs if k != i) if stream.enters else ()
                found = int((stream.ready if stream.enters else stream.valid).value)
                seen.setdefault((i, others), set()).add(found)
        assert all(len(values) == 1 for values in seen.values()), f"cycle {cycle()}: {seen}"
        for i in inputs:
            if last[i] and int(streams[i].ready.value):
                offers.pop(i)
        await FallingEdge(streams[0].clock)
    for stream in streams:
        (stream.valid if stream.enters else stream.ready).value = 0


def run_block(
    top: str,
    sources: Sequence[Path],
    parameters: Mapping[str, int],
    test_module: str,
    *,
    cache: Path,
    work: Path,
    simulator: str = "verilator",
    told: Mapping[str, str] | None = None,
) -> None:
    """Compile a block unless it lies in the cache, and run the cocotb tests of a module on it.

    Args:
        top: module to simulate.
        sources: all SystemVerilog files, ``top`` last.
        parameters: of ``top``.
        test_module: dotted name of the Python module with the cocotb tests.
        cache: folder of compiled simulations; the model's own folder is named by its content.
        work: folder in which the simulation runs and leaves its results.
        simulator: ``verilator`` or ``icarus``. told: more variables of its environment.

    Raises:
        AssertionError: the model does not compile, or a test failed; the text has the end of the log.
    """
    from cocotb_tools import config
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner

    env, version = _simulator(simulator)
    libraries = str(
        config.libs_dir
    )  # a compiled model outlives the environment that linked it: same version, other place
    env = {**env, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (libraries, env.get("LD_LIBRARY_PATH"))))}
    flags = ["-O3", "--x-assign", "unique", "--x-initial", "unique", "--assert"] if simulator == "verilator" else []
    key = hashlib.sha256(
        repr((simulator, version, cocotb.__version__, flags, top, sorted(parameters.items()))).encode()
    )
    for path in sources:
        key.update(path.read_bytes())
    build = cache / "blocks" / f"{top}-{key.hexdigest()[:16]}"
    built, log = build / "built", work / f"{test_module}.log"
    with mock.patch.dict(os.environ, env, clear=True), mock.patch.object(sys, "path", [str(ROOT), *sys.path]):
        runner = get_runner(simulator)
        with _locked(build):
            if not built.exists():
                kept = cache / "blocks" / f"runtime-{version.replace(' ', '_')}-{cocotb.__version__}"
                _copy_runtime(kept, build)
                with _log_on_failure(build / "build.log"):
                    runner.build(
                        sources=list(sources),
                        hdl_toplevel=top,
                        parameters=dict(parameters),
                        build_dir=build,
                        build_args=flags,
                        timescale=("1ns", "1ps"),
                        always=True,
                        log_file=build / "build.log",
                    )
                _copy_runtime(build, kept)
                _keep_executable(build)
                built.touch()
        with _log_on_failure(log):
            results = runner.test(
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                test_module=test_module,
                build_dir=build,
                test_dir=work,
                results_xml=str(work / f"{test_module}.xml"),
                log_file=log,
                extra_env=dict(told or {}),
                plusargs=["+verilator+rand+reset+2", "+verilator+seed+1"] if simulator == "verilator" else [],
            )
            count, failed = get_results(results)
            assert count > 0, f"{test_module}: no cocotb test ran"
            assert failed == 0, f"{test_module}: {failed} of {count} cocotb tests failed"


def _simulator(name: str) -> tuple[dict[str, str], str]:
    """Return the environment and the version of a simulator."""
    if name == "verilator":
        found = tools.verilator()
        return found.env, found.version
    return tools.child_env(), tools.require("iverilog").version


def _copy_runtime(source: Path, target: Path) -> None:
    """Take what every model of Verilator is linked with from one build to the next: half a minute of compilation."""
    target.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME:
        if (source / name).exists() and not (target / name).exists():
            made = target / f".{name}.{os.getpid()}"
            shutil.copy(source / name, made)
            later = time.time() + 3600  # than Vtop.mk, which make takes for a reason to compile it again
            os.utime(made, (later, later))
            made.rename(target / name)


def _keep_executable(build: Path) -> None:
    """Delete what only the compiler needs; precompiled headers alone are 150 MB a model."""
    for path in build.iterdir():
        if path.suffix in {".gch", ".o", ".a", ".d", ".cpp", ".h"}:
            path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from building into ``folder`` meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _log_on_failure(log: Path) -> Iterator[None]:
    """Add the end of a log to the text of what went wrong."""
    try:
        yield
    except (AssertionError, RuntimeError, SystemExit) as error:
        tail = log.read_text(errors="replace")[-6000:] if log.exists() else "no log"
        raise AssertionError(f"{error}\n{tail}") from error
