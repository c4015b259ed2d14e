"""A host for AXI4-Stream wrappers: several wrappers in one simulation, what each is fed, and a monitor of its rules.

Ports of the simulated top carry the name of their wrapper in front. A wrapper with several inputs or outputs is looked
at as a *view*: one input and one output that depends on it, while nobody feeds the other inputs and somebody reads the
other outputs. Everything is written after a rising edge of
``aclk`` and looked at after the falling one: what stands there is what the next rising edge takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, Timer

from emit.design import Design
from mase.netlist import build
from tests.emit.proof import Case, joined, rows
from tests.hw.bench import header

TOP = "axis_bench"
FACTS = "facts.json"
PERIOD_NS = 10
SLICE = 2  # beats that a register slice holds
PATIENCE = 6000  # cycles for what has to come


@dataclass(frozen=True)
class Facts:
    """What a wrapper is fed, and what it must give.

    Args:
        wrapper: its name in the top. feed, give: base names of the streams. idle, read: of the other streams.
        fed, given: words of all samples, a beat each. size_in, size_out: beats of a sample.
        bits_in, bytes_in: of a beat, and of ``s_axis_tdata``.
        filled: words that leave for sample 0 if only its first k beats are not zeros, by k.
        first, completions: predicted cycles of the core. accepted: input beats that fit while nobody takes the output.
        keep: ``m_axis_tkeep`` of every beat, or -1. resync: the parameter.
    """

    wrapper: str
    feed: str
    give: str
    idle: list[str]
    read: list[str]
    fed: list[int]
    given: list[int]
    size_in: int
    size_out: int
    bits_in: int
    bytes_in: int
    filled: list[list[int]]
    first: int
    completions: list[int]
    accepted: int
    keep: int
    resync: int

    @classmethod
    def of(
        cls, wrapper: str, case: Case, design: Design, parameters: Mapping[str, int], view: tuple[int, int]
    ) -> Facts:
        """Return what the reference computes and what the recurrence predicts.

        Args:
            view: the input and the output that are looked at, by index.
        """
        netlist, (i, o) = build(case.graph), view
        port, out = design.inputs[i], design.outputs[o]
        feed, give = port.stream, out.stream
        beats, timing = feed.pack(case.codes[i]), netlist.timing(len(case.code.mantissa)).each[o]
        cut = beats[:1].repeat(feed.beats, 0)
        for k in range(feed.beats):
            cut[k, k:] = 0
        fed = [port.edge.shaped(feed.unpack(cut)) if k == i else rows(c, slice(0, 1)) for k, c in enumerate(case.codes)]
        fed = [code if k == i else joined([code] * feed.beats) for k, code in enumerate(fed)]
        filled = [words(sample) for sample in give.pack(netlist.codes(*fed)[out.edge.name])]
        whole = (1 << out.axis_bytes) - 1
        keep = (1 << give.bytes) - 1 if parameters.get("NullPadding") else whole
        (held,) = netlist.held({o: SLICE}, [i])
        return cls(
            wrapper, port.axis, out.axis, [p.axis for p in design.inputs if p is not port],
            [p.axis for p in design.outputs if p is not out],
            words(beats), words(give.pack(netlist.codes(*case.codes)[out.edge.name])), feed.beats, give.beats,
            feed.bits, port.axis_bytes, filled, timing.first, list(timing.completions),
            held + SLICE, keep if design.manifest["axis"]["tkeep"] else -1, parameters.get("Resync", 1),
        )  # fmt: skip

    @property
    def samples(self) -> int:
        return len(self.fed) // self.size_in

    def frame(self, sample: int) -> list[int]:
        """Return what goes in for a sample; samples repeat."""
        start = sample % self.samples * self.size_in
        return self.fed[start : start + self.size_in]

    def packet(self, sample: int) -> list[int]:
        """Return what comes out for a sample."""
        start = sample % self.samples * self.size_out
        return self.given[start : start + self.size_out]

    def packets(self, count: int) -> list[list[int]]:
        return [self.packet(i) for i in range(count)]


def words(beats: Any) -> list[int]:  # Any: numpy array [..., bytes]
    return [int.from_bytes(beat.tobytes(), "little") for beat in beats.reshape(-1, beats.shape[-1])]


def write_bench(designs: Sequence[tuple[str, Design, Mapping[str, int]]], folder: Path) -> Path:
    """Write a top that holds wrappers side by side under a shared clock; each item is (name, design, parameters)."""
    ports, body = ["  input wire logic aclk"], []
    for name, design, parameters in designs:
        source = design.folder / design.manifest["files"]["axis"][-1]
        wires = [".aclk(aclk)"]
        for port, span in header(source)[1].items():
            if port != "aclk":
                into = port.startswith("s_axis") != port.endswith("_tready") or port in {"aresetn", "flush_i"}
                into &= port != "error_o"
                ports.append(f"  {'input wire' if into else 'output'} logic {span} {name}_{port}")
                wires.append(f".{port}({name}_{port})")
        values = ", ".join(f".{key}({value})" for key, value in parameters.items())
        body.append(f"  {source.stem} #({values}) u_{name} ({', '.join(wires)});\n")
    path, joined = folder / f"{TOP}.sv", ",\n".join(ports)
    path.write_text(f"module {TOP} (\n{joined}\n);\n{''.join(body)}endmodule\n")
    return path


def write_facts(facts: Mapping[str, Facts], folder: Path) -> None:
    (folder / FACTS).write_text(json.dumps({name: asdict(one) for name, one in facts.items()}))


def read_facts(name: str) -> Facts:
    """Return what the pytest process wrote where the simulation runs."""
    return Facts(**json.loads(Path(FACTS).read_text())[name])


@dataclass(frozen=True)
class Out:
    """One beat that left."""

    cycle: int
    word: int
    last: int
    user: int


class Wrapper:
    """One wrapper under test: its ports, and a monitor that checks in every cycle what AXI4-Stream asks."""

    def __init__(self, dut: HierarchyObject, name: str) -> None:
        self.dut, self.name, self.facts = dut, name, read_facts(name)
        self.cycle = 0
        self.taken: list[int] = []  # cycles
        self.out: list[Out] = []
        self._held: tuple[int, ...] | None = None

    def port(self, name: str) -> Any:  # Any: a handle
        """Return a port; ``s_axis`` and ``m_axis`` stand for the streams that are looked at."""
        name = name.replace("s_axis", self.facts.feed).replace("m_axis", self.facts.give)
        return getattr(self.dut, f"{self.facts.wrapper}_{name}")

    def value(self, name: str) -> int:
        """Return a port's value; fail where it is undefined."""
        value = self.port(name).value
        assert value.is_resolvable, f"{self.name}, cycle {self.cycle}: {name} is {value}"
        return int(value)

    async def start(self) -> Wrapper:
        """Start the clock, reset, and watch from here on."""
        for name in ("flush_i", "aresetn", "s_axis_tvalid", "s_axis_tdata", "s_axis_tlast", "m_axis_tready"):
            self.port(name).value = 0
        for stem in self.facts.idle:
            getattr(self.dut, f"{self.facts.wrapper}_{stem}_tvalid").value = 0
        for stem in self.facts.read:
            getattr(self.dut, f"{self.facts.wrapper}_{stem}_tready").value = 1
        if self.facts.keep >= 0:
            self.port("s_axis_tkeep").value = (1 << self.facts.bytes_in) - 1
        await self._reset_all()
        Clock(self.dut.aclk, PERIOD_NS, unit="ns").start()
        await self.cycles(4)
        cocotb.start_soon(self._watch())
        self.port("aresetn").value = 1
        await self.cycles(1)
        return self

    async def _reset_all(self) -> None:
        """Give every wrapper an edge of its reset before any of the clock: registers hold noise until then."""
        every = {facts["wrapper"] for facts in json.loads(Path(FACTS).read_text()).values()}
        for level in (1, 0):
            for name in every:
                getattr(self.dut, f"{name}_aresetn").value = level
            await Timer(1, "ns")

    def join(self) -> Wrapper:
        """Watch another view of a wrapper that has started."""
        cocotb.start_soon(self._watch())
        return self

    async def cycles(self, count: int) -> None:
        for _ in range(count):
            await RisingEdge(self.dut.aclk)

    async def _watch(self) -> None:
        while True:
            await FallingEdge(self.dut.aclk)
            await ReadOnly()
            self.cycle += 1
            if int(self.port("aresetn").value):
                self._look()
            else:
                assert (self.value("m_axis_tvalid"), self.value("s_axis_tready")) == (0, 0), "moves in reset"
                self._held = None

    def _look(self) -> None:
        valid, ready, error = (self.value(name) for name in ("m_axis_tvalid", "s_axis_tready", "error_o"))
        assert not (ready and self.value("flush_i")), "takes a beat in a cycle with flush_i"
        assert error in {0, 1}
        if ready and self.value("s_axis_tvalid"):
            self.taken.append(self.cycle)
        if not valid:
            assert self._held is None, f"{self.name}, cycle {self.cycle}: m_axis_tvalid was withdrawn"
            return
        beat = tuple(self.value(f"m_axis_{part}") for part in ("tdata", "tlast", "tuser"))
        assert self._held in (None, beat), f"{self.name}, cycle {self.cycle}: {self._held} became {beat}"
        if self.facts.keep >= 0:
            assert self.value("m_axis_tkeep") == self.facts.keep
        self._held = beat
        if self.value("m_axis_tready"):
            self.out.append(Out(self.cycle, *beat))
            self._held = None
            place = len(self.out) % self.facts.size_out
            assert beat[1] == (place == 0), f"{self.name}: tlast of beat {len(self.out) - 1} of all is {beat[1]}"
            assert beat[1] or not beat[2], f"{self.name}: tuser without tlast"

    def restart(self) -> None:
        """Forget what was seen, after a reset."""
        self.taken, self.out, self._held = [], [], None

    def packets(self, start: int = 0) -> list[list[int]]:
        """Return the words of the packets that have left, from one of them on."""
        size = self.facts.size_out
        whole = len(self.out) // size
        return [[beat.word for beat in self.out[i * size : (i + 1) * size]] for i in range(start, whole)]

    def marks(self, start: int = 0) -> list[int]:
        """Return ``tuser`` of each packet that has left."""
        return [beat.user for beat in self.out if beat.last][start:]

    async def until(self, packets: int) -> None:
        """Wait for so many packets in all, and then some cycles in which none may follow."""
        wanted = packets * self.facts.size_out
        for _ in range(PATIENCE):
            if len(self.out) >= wanted:
                break
            await self.cycles(1)
        assert len(self.out) >= wanted, f"{self.name}: {len(self.out)} of {wanted} beats after {PATIENCE} cycles"
        await self.cycles(30)
        assert len(self.out) == wanted, f"{self.name}: {len(self.out) - wanted} beats that nobody asked for"

    def sink(self, chance: float, seed: int = 2) -> None:
        """Take what comes, each cycle with this chance."""
        cocotb.start_soon(self._drain(chance, Random(seed)))

    async def _drain(self, chance: float, rng: Random) -> None:
        while True:
            self.port("m_axis_tready").value = int(rng.random() < chance)
            await self.cycles(1)

    async def flush(self, cycles: int = 1) -> None:
        self.port("flush_i").value = 1
        await self.cycles(cycles)
        self.port("flush_i").value = 0


class Host:
    """A master of our own: it can stop between two beats, and gives the unused bits of ``tdata`` noise."""

    def __init__(self, wrapper: Wrapper, chance: float = 1.0, seed: int = 1) -> None:
        self.wrapper, self.chance, self.rng = wrapper, chance, Random(seed)
        self.queue: list[tuple[int, int]] = []
        self.stopped, self.idle = False, True
        cocotb.start_soon(self._run())

    def send(self, beats: Sequence[int]) -> None:
        """Queue a frame: tlast with its last beat."""
        self.queue += [(word, int(k == len(beats) - 1)) for k, word in enumerate(beats)]

    async def stop(self) -> None:
        """Stop after the beat that is on offer; forget the rest."""
        self.stopped = True
        while not self.idle:
            await self.wrapper.cycles(1)
        self.queue.clear()

    async def _run(self) -> None:
        w, facts = self.wrapper, self.wrapper.facts
        while True:
            self.idle = not self.queue or self.stopped or self.rng.random() >= self.chance
            w.port("s_axis_tvalid").value = int(not self.idle)
            if not self.idle:
                word, last = self.queue.pop(0)
                spare = 8 * facts.bytes_in - facts.bits_in
                w.port("s_axis_tdata").value = word | self.rng.getrandbits(spare + 1) % (1 << spare) << facts.bits_in
                w.port("s_axis_tlast").value = last
            while True:
                await FallingEdge(w.dut.aclk)
                await ReadOnly()
                moved = not self.idle and w.value("s_axis_tready")
                await w.cycles(1)
                if self.idle or moved:
                    break


def pauses(chance: float, seed: int) -> Iterator[bool]:
    """Yield whether to pause, cycle by cycle."""
    rng = Random(seed)
    while True:
        yield rng.random() < chance
