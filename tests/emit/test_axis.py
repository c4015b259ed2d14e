"""The AXI4-Stream wrapper: cycles, pauses, resets, wrong frames with and without resync, flushes, padded ``tdata``.

All wrappers lie in one simulation. The first tests drive it with the masters and sinks of cocotbext-axi, which know
nothing of ours; where a master has to stop between two beats or break the rules of frames, it is our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace

import cocotb
import pytest
import torch
from cocotb.handle import HierarchyObject
from cocotb.triggers import Timer
from cocotb.types import Logic, LogicArray
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource
from torch import nn

from emit.axis import SLICES, bus_bytes
from emit.lint import lint
from emit.verilog import emit
from mase import flow
from mase.paths import cache_dir
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit import several
from tests.emit.axis_bench import (
    PATIENCE,
    PERIOD_NS,
    SLICE,
    TOP,
    Facts,
    Host,
    Wrapper,
    pauses,
    write_bench,
    write_facts,
)
from tests.emit.designs import Network
from tests.emit.proof import Case
from tests.hw.bench import header
from tests.hw.common.grid import SIMULATORS
from tests.hw.stream import run_block

LIMIT = {"timeout_time": 2, "timeout_unit": "ms"}
WATCHED = "counted"  # the wrapper with Resync 0
BRANCHED = ("apart", "inner", "early")  # designs with several inputs or outputs
SEVERAL = ["second", "inner"]  # views of wrappers with several inputs or outputs
ALL = ["padded", WATCHED, "single", "wide", "null", *SEVERAL]
REPAIRED = [name for name in ALL if name != WATCHED]
LONG = [name for name in REPAIRED if name != "single"]  # with frames of several beats


def cases() -> dict[str, Case]:
    """Return two rows of odd widths into blocks, one beat in and one out, and three bytes in and five out."""
    torch.manual_seed(0)
    odd = {"0": NodeFormats("int4", output="mxint4b2e3")}
    one = {"0": NodeFormats("int4", output="fixed6.3")}
    two = {"0": NodeFormats("int4c", output="fixed7.3"), "2": NodeFormats("fixed3.1", output="fixed10.5")}
    networks = [
        Network("padded", [nn.Linear(5, 3)], torch.randn(6, 2, 5), "fixed5.3", odd, {"0": Folding(3, 2)}),
        Network("single", [nn.Linear(3, 2)], torch.randn(8, 3), "fixed5.3", one, {"0": Folding(3, 2)}),
        Network("wide", [nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 6)], torch.randn(5, 7), "fixed8.4", two,
                {"0": Folding(3, 2), "2": Folding(2, 4)}),
    ]  # fmt: skip
    made = several.cases()
    return {network.name: network.case() for network in networks} | {name: made[name] for name in BRANCHED}


WRAPPERS: Mapping[str, tuple[str, Mapping[str, int]]] = {  # name: design and parameters
    "padded": ("padded", {}),
    WATCHED: ("padded", {"Resync": 0}),
    "single": ("single", {}),
    "wide": ("wide", {}),
    "null": ("wide", {"NullPadding": 1}),
    "apart": ("apart", {}),
    "inside": ("inner", {}),
    "windows": ("early", {}),
}
VIEWS: Mapping[str, tuple[str, tuple[int, int]]] = {  # name: wrapper, input and output
    **{name: (name, (0, 0)) for name in ("padded", WATCHED, "single", "wide", "null")},
    "first": ("apart", (0, 0)),
    "second": ("apart", (1, 1)),
    "inner": ("inside", (0, 0)),
    "outer": ("inside", (0, 1)),
    "gated": ("windows", (0, 0)),
}


class Independent:
    """A master and a sink of cocotbext-axi on a wrapper."""

    def __init__(self, wrapper: Wrapper, pause_in: float = 0.0, pause_out: float = 0.0, seed: int = 5) -> None:
        dut, reset = wrapper.dut, wrapper.port("aresetn")
        ends = {"s_axis": AxiStreamSource, "m_axis": AxiStreamSink}
        stems = {"s_axis": wrapper.facts.feed, "m_axis": wrapper.facts.give}
        buses = {s: AxiStreamBus.from_prefix(dut, f"{wrapper.facts.wrapper}_{stem}") for s, stem in stems.items()}
        self.source, self.sink = (end(buses[s], dut.aclk, reset, reset_active_level=False) for s, end in ends.items())
        self.source.set_pause_generator(pauses(pause_in, seed))
        self.sink.set_pause_generator(pauses(pause_out, seed + 1))
        self._bytes = wrapper.facts.bytes_in

    def send(self, beats: Sequence[int]) -> None:
        self.source.send_nowait(AxiStreamFrame(b"".join(word.to_bytes(self._bytes, "little") for word in beats)))


# -- what every stream does: the tests of an independent bench ---------------------------------------------------------


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL)
async def frames_come_in_the_predicted_cycles(dut: HierarchyObject, name: str) -> None:
    w = await Wrapper(dut, name).start()
    ends = Independent(w)
    for i in range(w.facts.samples):
        ends.send(w.facts.frame(i))
    await w.until(w.facts.samples)
    assert w.packets() == w.facts.packets(w.facts.samples)
    left = [beat.cycle - w.taken[0] - SLICES for beat in w.out]
    assert left[0] == w.facts.first
    assert left[w.facts.size_out - 1 :: w.facts.size_out] == w.facts.completions
    assert (w.value("error_o"), any(w.marks())) == (0, False)
    assert ends.sink.count() == w.facts.samples


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL, chances=[(0.5, 0.5), (0.9, 0.1), (0.0, 0.9)])
async def pauses_change_nothing(dut: HierarchyObject, name: str, chances: tuple[float, float]) -> None:
    w = await Wrapper(dut, name).start()
    ends = Independent(w, *chances)
    for i in range(2 * w.facts.samples):
        ends.send(w.facts.frame(i))
    await w.until(2 * w.facts.samples)
    assert w.packets() == w.facts.packets(2 * w.facts.samples)
    assert (w.value("error_o"), any(w.marks())) == (0, False)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL)
async def a_sink_that_never_takes_stops_the_source_where_predicted(dut: HierarchyObject, name: str) -> None:
    w = await Wrapper(dut, name).start()
    ends = Independent(w)
    ends.sink.pause = True
    ends.sink.set_pause_generator(pauses(1.0, 0))
    count = w.facts.accepted // w.facts.size_in + 3
    for i in range(count):
        ends.send(w.facts.frame(i))
    await w.cycles(600)
    assert (len(w.taken), len(w.out)) == (w.facts.accepted, 0)
    ends.sink.clear_pause_generator()
    ends.sink.pause = False
    await w.until(count)
    assert w.packets() == w.facts.packets(count)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL)
async def a_reset_in_mid_stream_starts_over(dut: HierarchyObject, name: str) -> None:
    w, rng = await Wrapper(dut, name).start(), Random(5)
    host = Host(w, 0.8)
    w.sink(0.7)
    for trial in range(8):
        for i in range(6):
            host.send(w.facts.frame(i))
        await w.cycles(rng.randint(1, 40))
        await Timer(rng.randint(1, PERIOD_NS - 1), "ns")  # asynchronous, in some trials for less than a cycle
        w.port("aresetn").value = 0
        host.queue.clear()
        await Timer(rng.randint(1, 3) if trial % 2 else 23, "ns")
        w.port("s_axis_tvalid").value = 0
        w.port("aresetn").value = 1
        await host.stop()
        w.restart()
        host.stopped = False
        for i in range(3):
            host.send(w.facts.frame(i))
        await w.until(3)
        assert w.packets() == w.facts.packets(3)
        assert (w.value("error_o"), any(w.marks())) == (0, False)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL)
async def what_is_undefined_while_nothing_is_valid_does_not_matter(dut: HierarchyObject, name: str) -> None:
    w, rng = await Wrapper(dut, name).start(), Random(3)
    w.sink(1.0)
    noise = {part: LogicArray("X" * len(w.port(part))) for part in ("s_axis_tdata",)}
    beats = [(b, int(k == w.facts.size_in - 1)) for i in range(4) for k, b in enumerate(w.facts.frame(i))]
    for word, last in beats:
        w.port("s_axis_tvalid").value = 0
        while rng.random() < 0.5:
            w.port("s_axis_tdata").value, w.port("s_axis_tlast").value = noise["s_axis_tdata"], Logic("X")
            await w.cycles(1)
        w.port("s_axis_tdata").value, w.port("s_axis_tlast").value, w.port("s_axis_tvalid").value = word, last, 1
        before = len(w.taken)
        while len(w.taken) == before:
            await w.cycles(1)
    w.port("s_axis_tvalid").value = 0
    w.port("s_axis_tdata").value, w.port("s_axis_tlast").value = noise["s_axis_tdata"], Logic("X")
    await w.until(4)
    assert w.packets() == w.facts.packets(4)
    assert (w.value("error_o"), any(w.marks())) == (0, False)


# -- wrong frames ------------------------------------------------------------------------------------------------------


@cocotb.test(**LIMIT)
@cocotb.parametrize(wrong=["early", "missing", "late"])
async def without_resync_beats_are_counted(dut: HierarchyObject, wrong: str) -> None:
    w = await Wrapper(dut, WATCHED).start()
    ends, size = Independent(w), w.facts.size_in
    beats = [word for i in range(3) for word in w.facts.frame(i)]
    cuts = {"early": (1, size, 2 * size), "missing": (2 * size,), "late": (size + 1, 2 * size)}[wrong]
    for start, end in zip((0, *cuts), (*cuts, 3 * size), strict=True):
        ends.send(beats[start:end])
    await w.until(3)
    assert w.packets() == w.facts.packets(3)  # counters rule: the codes are as if tlast had been right
    assert (w.value("error_o"), any(w.marks())) == (1, False)


@cocotb.test(**LIMIT)
async def without_resync_a_last_with_every_beat_stops_nothing(dut: HierarchyObject) -> None:
    w = await Wrapper(dut, WATCHED).start()
    ends = Independent(w)
    for i in range(12):
        for word in w.facts.frame(i):
            ends.send([word])
    await w.until(12)
    assert w.packets() == w.facts.packets(12)
    assert (w.value("error_o"), any(w.marks())) == (1, False)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=LONG)
async def after_a_frame_that_lost_a_beat_all_are_right(dut: HierarchyObject, name: str) -> None:
    w = await Wrapper(dut, name).start()
    ends = Independent(w)
    ends.send(w.facts.frame(0)[:-1])
    for i in range(6):
        ends.send(w.facts.frame(i))
    await w.until(7)
    assert w.packets() == [w.facts.filled[-1], *w.facts.packets(6)]
    assert (w.value("error_o"), w.marks()) == (1, [1] + 6 * [0])


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=[*REPAIRED, "gated"], chances=[(1.0, 1.0), (0.7, 0.3)])
async def each_frame_that_comes_in_gives_one_that_goes_out(
    dut: HierarchyObject, name: str, chances: tuple[float, float]
) -> None:
    w, rng = await Wrapper(dut, name).start(), Random(11)
    host = Host(w, chances[0])
    w.sink(chances[1])
    size, expected, marks = w.facts.size_in, [], []
    for i in range(40):
        sample, length = i, rng.choice([size, size, *range(1, 2 * size + 3)])
        if length < size:
            sample = 0  # of which the reference knows what comes if it is short
        host.send((w.facts.frame(sample) + w.facts.frame(i + 1) + w.facts.frame(i + 2) * 2)[:length])
        expected.append(w.facts.filled[length] if length < size else w.facts.packet(sample))
        marks.append(int(length != size))
    assert set(marks) == {0, 1}
    await w.until(40)
    assert w.packets() == expected
    assert (w.value("error_o"), w.marks()) == (1, marks)
    await w.flush()
    await w.cycles(2)
    assert w.value("error_o") == 0


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=["wide", "null"])
async def a_beat_that_is_not_kept_whole_damages_its_frame(dut: HierarchyObject, name: str) -> None:
    w = await Wrapper(dut, name).start()
    w.sink(1.0)
    used = -(-w.facts.bits_in // 8)
    for i, keep in enumerate([(1 << used) - 1, (1 << used) - 2, (1 << w.facts.bytes_in) - 1]):
        w.port("s_axis_tkeep").value = keep
        Host(w).send(w.facts.frame(i))
        await w.until(i + 1)
    assert w.packets() == w.facts.packets(3)  # the data are taken as they are
    assert (w.value("error_o"), w.marks()) == (1, [0, 1, 0])


@cocotb.test(**LIMIT)
@cocotb.parametrize(length=[1, 5, 9])
async def damage_stays_with_the_outputs_that_depend_on_it(dut: HierarchyObject, length: int) -> None:
    damaged, other = await Wrapper(dut, "first").start(), Wrapper(dut, "second").join()
    for w in (damaged, other):
        w.sink(0.8)
    hosts = [Host(w, 0.9) for w in (damaged, other)]
    for i in range(6):
        hosts[0].send((damaged.facts.frame(i) * 2)[: length if i == 2 else damaged.facts.size_in])
        hosts[1].send(other.facts.frame(i))
    await damaged.until(6)
    await other.until(6)
    assert (damaged.value("error_o"), damaged.marks(), other.marks()) == (1, [0, 0, 1, 0, 0, 0], 6 * [0])
    assert other.packets() == other.facts.packets(6)


@cocotb.test(**LIMIT)
async def damage_of_one_input_marks_all_outputs_that_depend_on_it(dut: HierarchyObject) -> None:
    inner, outer = await Wrapper(dut, "inner").start(), Wrapper(dut, "outer").join()
    inner.sink(0.5, 3)
    outer.sink(0.7, 4)
    host, marks = Host(inner), list[int]()
    for i in range(10):
        cut = i in {0, 3, 4, 8}
        host.send(inner.facts.frame(0)[: inner.facts.size_in - cut])
        marks.append(int(cut))
    for w in (inner, outer):
        await w.until(10)
        assert w.packets() == [w.facts.filled[-1] if mark else w.facts.packet(0) for mark in marks]
        assert w.marks() == marks


@cocotb.test(**LIMIT)
async def a_packet_that_is_early_waits_for_the_mark_of_its_frame(dut: HierarchyObject) -> None:
    w = await Wrapper(dut, "gated").start()
    w.sink(1.0)
    size, marks = w.facts.size_in, [0, 1, 1, 0]
    for i, mark in enumerate(marks):
        beats = [(word, 0) for word in w.facts.frame(i)] + [(0, 1)] * mark
        beats[-1] = (beats[-1][0], 1)
        for k, (word, last) in enumerate(beats):
            if k == size - 1:
                await w.cycles(120)  # all values that the packet needs are there
                assert len(w.out) == (i + 1) * w.facts.size_out - 1
            w.port("s_axis_tdata").value, w.port("s_axis_tlast").value, w.port("s_axis_tvalid").value = word, last, 1
            before = len(w.taken)
            while len(w.taken) == before:
                await w.cycles(1)
            w.port("s_axis_tvalid").value = 0
    await w.until(len(marks))
    assert (w.packets(), w.marks()) == (w.facts.packets(len(marks)), marks)


# -- flushes -----------------------------------------------------------------------------------------------------------


async def settled(w: Wrapper, before: int) -> int:
    """Check what a flush kept, when all is quiet; return how many packets have left in all.

    Args:
        before: beats that had left when it came. At most those of the output slice follow, in order, and then zeros.
    """
    await w.cycles(3 * w.facts.size_out + 20)
    while len(w.out) % w.facts.size_out or w.value("m_axis_tvalid"):
        await w.cycles(1)
    assert len(w.out) - before <= SLICE + w.facts.size_out - 1
    marks = w.marks()
    if marks and marks[-1]:
        tail = w.packets()[-1]
        assert not any(tail[(before + SLICE) % w.facts.size_out or w.facts.size_out :])
    return len(marks)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=ALL)
async def a_flush_ends_the_packet_and_the_next_frame_is_right(dut: HierarchyObject, name: str) -> None:
    w, rng, cut = await Wrapper(dut, name).start(), Random(6), 0
    host = Host(w, 0.8)
    w.sink(0.6)
    for _ in range(12):
        for i in range(8):
            host.send(w.facts.frame(i))
        await w.cycles(rng.randint(1, 60))
        await host.stop()
        before, whole = len(w.out), len(w.marks())
        await w.flush(rng.choice([1, 1, 2, 5]))
        packets = await settled(w, before)
        cut += sum(w.marks(whole))
        host.stopped = False
        for i in range(3):
            host.send(w.facts.frame(i))
        await w.until(packets + 3)
        assert (w.packets(packets), w.marks(packets)) == (w.facts.packets(3), [0, 0, 0])
        assert w.value("error_o") == 0
    assert cut or w.facts.size_out == 1  # some flush came in mid-packet


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=REPAIRED, sink=[1.0, 0.5])
async def a_flush_under_traffic_costs_one_marked_frame(dut: HierarchyObject, name: str, sink: float) -> None:
    w, rng = await Wrapper(dut, name).start(), Random(7)
    host, size, count = Host(w), w.facts.size_in, 60
    w.sink(sink)
    for i in range(count):
        host.send(w.facts.frame(i))
    await w.cycles(rng.randint(40, 60))
    whole, taken = len(w.marks()), len(w.taken)
    await w.flush()
    gone, rest = len(w.taken), -len(w.taken) % size  # beats taken before, and those that its last frame still lacks
    assert gone >= taken
    left = -(-(count * size - gone - rest) // size)
    for _ in range(PATIENCE):
        if len(w.taken) == count * size and not w.value("m_axis_tvalid"):
            break
        await w.cycles(1)
    await w.cycles(200)
    found, marks = w.packets(), w.marks()
    assert found[-left:] == [w.facts.packet(i) for i in range(count - left, count)]
    assert marks[-left:] == [0] * left
    cut = marks[whole : len(marks) - left]
    assert sum(cut) <= 1 + bool(rest)  # the packet that was open, and the rest of a frame
    assert bool(rest) <= sum(cut)
    assert w.value("error_o") == int(rest > 0)


@cocotb.test(**LIMIT)
@cocotb.parametrize(name=LONG, sink=[0.0, 0.5, 1.0])
async def a_flush_keeps_what_has_left_the_core(dut: HierarchyObject, name: str, sink: float) -> None:
    w = await Wrapper(dut, name).start()
    host, rng = Host(w), Random(9)
    started = 0
    for trial in range(14):
        w.port("m_axis_tready").value = 1
        for i in range(4):
            host.send(w.facts.frame(i))
        for _ in range(trial + w.facts.first):
            w.port("m_axis_tready").value = int(rng.random() < sink)
            await w.cycles(1)
        await host.stop()
        before = len(w.out)
        await w.flush()
        w.port("m_axis_tready").value = 1
        packets = await settled(w, before)
        seen = w.packets(started)
        for place, (packet, mark) in enumerate(zip(seen, w.marks(started), strict=True)):
            good = w.facts.packet(place)
            same = next((k for k, (a, b) in enumerate(zip(packet, good, strict=True)) if a != b), len(good))
            assert mark or packet == good
            assert mark == 0 or (place == len(seen) - 1 and not any(packet[same:]))  # right beats, then zeros
        started = packets


# -- the pytest side ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "padded"), [(1, 1), (2, 2), (3, 4), (5, 8), (36, 64), (64, 64)])
def test_the_bus_is_padded_to_the_next_power_of_two(size: int, padded: int) -> None:
    edge = SimpleNamespace(stream=SimpleNamespace(bytes=size))
    assert (bus_bytes(edge, pad=False), bus_bytes(edge, pad=True)) == (size, padded)


@pytest.mark.parametrize("pad", [False, True])
def test_the_readme_lists_the_ports_with_their_bits(pad: bool, tmp_path: Path) -> None:
    design = flow.emit(cases()["wide"].graph, tmp_path / "wide", "wide", axis_pad=pad)
    rows = [row.split(" | ") for row in (design.folder / "README.md").read_text().splitlines() if row.startswith("| `")]
    listed = {name.strip("`| ") for row in rows for name in row[0].split(", ")}
    bits = {row[0].strip("`| "): row[2] for row in rows}
    for file in (design.manifest["files"]["axis"][-1], design.manifest["files"]["rtl"][-1]):
        ports = header(design.folder / file)[1]
        assert set(ports) <= listed
        for port, span in ports.items():
            assert bits.get(port, "1") == str(int(span[1:].partition(":")[0]) + 1 if span else 1), port
    assert ("s_axis_tkeep" in listed, bits["s_axis_tdata"]) == (pad, "32" if pad else "24")


@pytest.mark.sim
def test_a_padded_wrapper_has_no_finding(tmp_path: Path) -> None:
    design = emit(cases()["wide"].graph, tmp_path / "wide", "wide", axis_pad=True)
    files = [design.folder / name for part in ("rtl", "axis") for name in design.manifest["files"][part]]
    assert [str(f) for f in lint(files, f"{design.top}_axis") if f.severity != "absent"] == []


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_axis(simulator: str, tmp_path: Path) -> None:
    made = cases()
    designs = {name: emit(case.graph, tmp_path / name, name, axis_pad=name == "wide") for name, case in made.items()}
    placed = [(name, designs[design], parameters) for name, (design, parameters) in WRAPPERS.items()]
    top, facts = write_bench(placed, tmp_path), dict[str, Facts]()
    for name, (wrapper, view) in VIEWS.items():
        design, parameters = WRAPPERS[wrapper]
        facts[name] = Facts.of(wrapper, made[design], designs[design], parameters, view)
    write_facts(facts, tmp_path)
    (tmp_path / "mem").mkdir()
    for emitted in designs.values():
        for memory in emitted.manifest["memories"]:
            (tmp_path / memory).symlink_to(emitted.folder / memory)  # memories lie where the tool runs
    sources = [
        d.folder / f for d in designs.values() for f in (*d.manifest["files"]["rtl"], *d.manifest["files"]["axis"])
    ]
    run_block(TOP, [*sources, top], {}, __name__, cache=cache_dir(), work=tmp_path, simulator=simulator)
