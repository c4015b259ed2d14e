"""Compile emitted designs with Verilator and run samples through them (docs/design.md, "Simulation")."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from emit import children, harness
from emit.design import Design
from emit.tools import require, verilator
from mase.dataflow.schedule import Timing
from mase.errors import GraphError, RtlFault, ToolError
from mase.formats import Code
from mase.interpreter import Batch
from mase.paths import cache_dir

QUICK, FAST = "-O1", "-O2 -march=native"  # FAST compiles longer and runs 3 to 4 times faster
# Registers hold noise before the reset, drawn by the seed of each run: one without a reset shows itself.
VERILATE = ("-O3", "--x-assign", "unique", "--x-initial", "unique", "--no-timing", "--assert")
SEEDS = 1 << 31  # of Verilator's noise: 1 to one less
QUIET_LIMIT = 20_000  # cycles without any beat after which the harness says that nothing moves


@dataclass(frozen=True)
class Job:
    """One design and what it is fed.

    Args:
        design: emitted. codes: of each input ``[samples, ...]``, as many samples of each.
        stall_in, stall_out: probability of a pause of each source and of each sink in a cycle.
        seed: of the pauses; that of the first of several jobs also of what registers hold before the reset.
        restart_at: cycle of a reset in mid-stream, after which all is fed again (0: none).
        flush: restart by ``flush_i`` instead of ``rst_ni``.
        stalls: probabilities of other pauses, by name of the port.
        wrong_last: beats, counted from 1, at which ``last`` is wrong, by name of the input.
    """

    design: Design
    codes: tuple[Code, ...]
    stall_in: float = 0.0
    stall_out: float = 0.0
    seed: int = 1
    restart_at: int = 0
    flush: bool = False
    stalls: Mapping[str, float] = field(default_factory=dict)
    wrong_last: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.codes[0].mantissa)

    def line(self) -> str:
        """Return what the harness reads."""
        usual = {"in": self.stall_in, "out": self.stall_out}
        pauses = [round(1000 * self.stalls.get(p.name, usual[p.direction])) for p in self.design.ends.all]
        wrong = [self.wrong_last.get(port.name, 0) for port in self.design.inputs]
        return " ".join(map(str, [self.samples, self.seed, self.restart_at, int(self.flush), *pauses, *wrong]))


@dataclass(frozen=True)
class EdgeActivity:
    """Cycles of one edge: beats moved, offered but not taken (stalled), not offered (idle)."""

    beats: int
    stalled: int
    idle: int


@dataclass(frozen=True, eq=False)
class SimResult:
    """What one design did.

    Args:
        codes: by edge name. cycles: counted, in the form in which schedules predict them; cycle 0 took the first beat.
        edges: activity by edge name. window: the waveform file, where one was asked for.
        beats: then also the cycle of each beat ``[samples, beats]`` by edge name, in the count of the window, which
            begins with the reset.
    """

    design: Design
    codes: dict[str, Code]
    cycles: Timing
    edges: dict[str, EdgeActivity] = field(default_factory=dict)
    window: Path | None = None
    beats: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)

    @property
    def output(self) -> Tensor:
        """Real values of the output, float64; of the first one where there are several."""
        return next(iter(self.outputs.values()))

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Real values of each output by the model's name, float64."""
        return {port.tensor: port.edge.decode(self.codes[port.edge.name]) for port in self.design.outputs}

    @property
    def completions(self) -> tuple[int, ...]:
        """Cycle of the last output beat of each sample."""
        return self.cycles.completions

    @property
    def first_output(self) -> int:
        """Cycle of the first output beat."""
        return self.cycles.first

    @property
    def latency(self) -> int:
        """Cycle of the last output beat of sample 0."""
        return self.cycles.latency

    @property
    def interval(self) -> Fraction:
        """Steady distance between samples: over the last half of the run."""
        return self.cycles.interval


def simulate(design: Design, x: Batch, optimise: str | None = None) -> SimResult:
    """Run model inputs ``[samples, ...]`` through the RTL, sources always valid and sinks always ready.

    Args:
        x: a tensor; of several inputs one tensor each, or tensors by name.

    Raises:
        ToolError: a tool is missing, the RTL does not compile, or the simulation stops; says who waits on whom.
    """
    job = Job(design, design.encode(x))
    return simulate_many([job], optimise or flags_for(design, job.samples))[0]


def flags_for(design: Design, samples: int) -> str:
    """Return the compiler flags that pay off for a run of so many samples."""
    return FAST if samples * max(port.stream.beats for port in design.ends.all) > 1 << 18 else QUICK


def simulate_many(jobs: Sequence[Job], optimise: str = QUICK, window: tuple[int, int] | None = None) -> list[SimResult]:
    """Run several designs in one compiled model, each with its own stream.

    Args:
        window: first and last cycle of a VCD of all signals, written beside the first design's results.
    """
    designs = [job.design for job in jobs]
    binary = compiled(designs, optimise, trace=window is not None)
    with tempfile.TemporaryDirectory(prefix="mase-sim-") as name:
        folder = Path(name)
        (folder / "mem").mkdir()
        lines = []
        for i, job in enumerate(jobs):
            for memory in sorted((job.design.folder / "mem").glob("*")):
                target = folder / "mem" / memory.name
                if target.exists():
                    raise GraphError(
                        f"{job.design.top}: two designs have the memory {memory.name}; give them other names"
                    )
                target.symlink_to(memory.absolute())
            for port, code in zip(job.design.inputs, job.codes, strict=True):
                port.stream.pack(code).tofile(folder / f"{i}.{port.name}.in")
            lines.append(job.line())
        start, end = window or (0, 0)
        lines.append(f"{QUIET_LIMIT} {start} {end}")
        (folder / "job").write_text("\n".join([str(jobs[0].seed % SEEDS or 1), *lines]) + "\n")
        done = children.run([binary, folder / "job", folder], folder)
        if done.returncode:
            said = (done.stderr + done.stdout).strip()[-400:]
            raise ToolError(f"simulation of {designs[0].top}: exit code {done.returncode}: {said}")
        report = json.loads(done.stdout)["designs"]
        results = [_result(folder, i, job, report[i]) for i, job in enumerate(jobs)]
        if window is not None and (folder / "window.vcd").exists():
            kept = Path(tempfile.mkdtemp(prefix="mase-vcd-")) / "window.vcd"
            shutil.move(folder / "window.vcd", kept)
            results[0] = SimResult(**{**vars(results[0]), "window": kept})
    return results


def _result(folder: Path, index: int, job: Job, report: dict[str, Any]) -> SimResult:
    design = job.design
    if report["fault"]:
        edges = {e["signal"]: e for e in report["edges"]}
        states = [
            f"{edge.path}: {'valid' if edges[edge.signal]['valid'] else 'empty'}"
            f"/{'ready' if edges[edge.signal]['ready'] else 'busy'} after {edges[edge.signal]['beats']} beats"
            for edge in design.recorded
        ]
        raise RtlFault(f"simulation of {design.top}: {report['fault']} at {_got(design, report)}; {'; '.join(states)}")
    codes, activity, times = {}, {}, {}
    for edge, e in zip(design.recorded, report["edges"], strict=True):
        raw = np.fromfile(folder / f"{index}.{edge.signal}.bin", np.uint8)
        if e["beats"] % edge.stream.beats:
            whole = f"{e['beats']} beats are not whole samples of {edge.stream.beats}"
            raise RtlFault(f"simulation of {design.top}: edge {edge.path}: {whole}")
        beats = raw.reshape(-1, edge.stream.beats, edge.stream.bytes)
        if not edge.stream.tails(beats):
            raise RtlFault(f"simulation of {design.top}: edge {edge.path}: a lane past the end of a row is not 0")
        codes[edge.name] = edge.shaped(edge.stream.unpack(beats))
        activity[edge.name] = EdgeActivity(e["beats"], e["stalled"], e["idle"])
        if (clock := folder / f"{index}.{edge.signal}.time").exists():
            times[edge.name] = np.fromfile(clock, np.uint64).reshape(-1, edge.stream.beats)
    found = []
    for port, seen in zip(design.outputs, report["ports"], strict=True):
        done = np.fromfile(folder / f"{index}.{port.name}.done", np.uint64)
        found.append(Timing(seen["first_output"], tuple(int(t) for t in done)))
    return SimResult(design, codes, Timing.of(found), activity, beats=times)


def _got(design: Design, report: dict[str, Any]) -> str:
    """Say how many beats left."""
    counts = [seen["got"] for seen in report["ports"]]
    if len(counts) == 1:
        return f"{counts[0]} output beats"
    return ", ".join(f"{n} beats of {port.name}" for n, port in zip(counts, design.outputs, strict=True))


# -- compilation ----------------------------------------------------------------------------------------------------


def compiled(designs: Sequence[Design], optimise: str, trace: bool = False) -> Path:
    """Return the simulation program of these designs, compiled once for each content, flags and tool version."""
    for tool in ("g++",):
        require(tool)
    files = sorted({source.name: source for design in designs for source in design.sources}.items())
    texts = {name: source.read_bytes() for name, source in files}
    texts |= {
        "bundle.sv": harness.bundle(designs).encode(),
        "public.vlt": harness.control(designs).encode(),
        "harness.cpp": harness.program(designs).encode(),
    }
    key = _key([verilator().version, _compiler(), optimise, str(trace), *VERILATE, *texts], *texts.values())
    target = cache_dir() / "sim" / key
    try:
        if not (target / "sim").is_file():
            _build(target, texts, [name for name, _ in files], optimise, trace)
    except OSError as error:
        place = f"{cache_dir()}: cannot keep the compiled simulation: {error.strerror}"
        raise ToolError(f"{place}; MASE_CACHE names another folder") from error
    return target / "sim"


def _build(target: Path, texts: dict[str, bytes], sources: list[str], optimise: str, trace: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as name:
        work = Path(name)
        for file, text in texts.items():
            (work / file).write_bytes(text)
        tool = verilator()
        flags = ["--cc", "--quiet", *VERILATE]
        flags += ["--output-split", "20000", "--top-module", "bundle", "--prefix", "Vbundle", "--Mdir", "obj"]
        flags += ["--trace"] * trace
        _call([*tool.command, *flags, "public.vlt", *sources, "bundle.sv"], work, tool.env)
        model = sorted((work / "obj").glob("*.cpp"))
        runtime = _runtime(optimise, trace)
        command = [*_cxx(optimise, trace), f"-I{work / 'obj'}"]
        files = (*model, work / "harness.cpp")
        _call_all([[*command, "-c", str(f), "-o", f"{f.stem}.o"] for f in files], work)
        objects = [f"{f.stem}.o" for f in model] + ["harness.o"]
        _call(["g++", *optimise.split(), *objects, *map(str, runtime), "-o", "sim", "-pthread", "-latomic"], work, None)
        out = work / "done"
        out.mkdir()
        (work / "sim").rename(out / "sim")
        if target.exists():
            shutil.rmtree(target)
        try:
            out.rename(target)
        except OSError:  # another process built the same at the same time
            if not (target / "sim").is_file():
                raise


def _runtime(optimise: str, trace: bool) -> list[Path]:
    """Return the objects of Verilator's run-time files, compiled once."""
    tool = verilator()
    names = ["verilated", "verilated_threads", *["verilated_vcd_c"] * trace]
    folder = cache_dir() / "runtime" / _key([tool.version, _compiler(), optimise, str(trace)])
    missing = [name for name in names if not (folder / f"{name}.o").is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            sources = {name: str(tool.root / "include" / f"{name}.cpp") for name in missing}
            command = _cxx(optimise, trace)
            _call_all([[*command, "-c", source, "-o", f"{name}.o"] for name, source in sources.items()], Path(work))
            for name in missing:
                (Path(work) / f"{name}.o").rename(folder / f"{name}.o")
    return [folder / f"{name}.o" for name in names]


def warm() -> None:
    """Compile Verilator's run-time files ahead of the first simulation."""
    for optimise in (QUICK, FAST):
        _runtime(optimise, trace=False)


def _cxx(optimise: str, trace: bool) -> list[str]:
    root = verilator().root / "include"
    defines = [
        "-DVERILATOR=1",
        "-DVM_COVERAGE=0",
        "-DVM_SC=0",
        f"-DVM_TRACE={int(trace)}",
        f"-DVM_TRACE_VCD={int(trace)}",
    ]
    defines += ["-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0"]
    return [
        "g++",
        "-std=gnu++20",
        *optimise.split(),
        "-w",
        "-faligned-new",
        f"-I{root}",
        f"-I{root / 'vltstd'}",
        *defines,
    ]


def _call(command: list[str], folder: Path, env: dict[str, str] | None) -> None:
    with children.Family() as family:
        _checked(family.run(command, folder, env))


def _call_all(commands: Sequence[list[str]], folder: Path) -> None:
    """Run commands side by side; the first that fails, or Ctrl-C, ends all of them."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, children.Family() as family:
        for job in as_completed([pool.submit(family.run, command, folder) for command in commands]):
            _checked(job.result())


def _checked(done: CompletedProcess[str]) -> None:
    if done.returncode:
        text = (done.stderr + done.stdout).strip()
        first = next((line for line in text.splitlines() if "rror" in line), text[-300:])
        raise ToolError(f"{Path(done.args[0]).name}: exit code {done.returncode}: {first[:400]}")


@cache
def _compiler() -> str:
    """Return the compiler's version and the processor that ``-march=native`` means: machines may share a cache."""
    version = children.run(["g++", "--version"]).stdout.splitlines()[0]
    cpu = Path("/proc/cpuinfo")
    told = cpu.read_text(errors="replace").splitlines() if cpu.is_file() else []
    features = next((line for line in told if line.startswith(("flags", "Features"))), "")
    return f"{version}\0{platform.machine()}\0{features}"


def _key(words: list[str], *blobs: bytes) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for blob in blobs:
        digest.update(hashlib.sha256(blob).digest())
    return digest.hexdigest()[:32]
