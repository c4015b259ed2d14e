"""The AXI4-Stream wrapper: bytes padded, tlast on the last beat, stalls, the error flag and the flush."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import cocotb
import pytest
import torch
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly
from torch import nn

from emit.verilog import emit
from mase.netlist import build
from mase.paths import cache_dir
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case
from tests.hw.common.grid import SIMULATORS
from tests.hw.stream import PERIOD_NS, run_block

TOP = "mase_padded_axis"
WORDS = "words.json"
BITS_IN = 15  # of a beat


def padded() -> Case:
    """Return a layer whose beats are 15 bits in and 11 bits out, two rows a sample."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 3)]
    formats = {"0": NodeFormats("int4", output="mxint4b2e3")}
    return Network("padded", layers, torch.randn(6, 2, 5), "fixed5.3", formats, {"0": Folding(3, 2)}).case()


@dataclass(frozen=True)
class Traffic:
    """Words that go in and come out, and beats of a sample on either side."""

    fed: list[int]
    given: list[int]
    size_in: int
    size_out: int

    @classmethod
    def of(cls, case: Case) -> Traffic:
        """Return what the reference computes."""
        netlist = build(case.graph)
        out = netlist.codes(case.code)[netlist.instances[-1].edge]
        sides = ((netlist.stream_in, case.code), (netlist.stream_out, out))
        assert netlist.stream_in.bits == BITS_IN
        words = [[int.from_bytes(b.tobytes(), "little") for b in s.pack(c).reshape(-1, s.bytes)] for s, c in sides]
        return cls(words[0], words[1], netlist.stream_in.beats, netlist.stream_out.beats)

    @classmethod
    def read(cls) -> Traffic:
        """Return what the test wrote where the simulation runs."""
        return cls(**json.loads(Path(WORDS).read_text()))


async def begin(dut: HierarchyObject) -> None:
    for signal in (dut.flush_i, dut.s_axis_tvalid, dut.s_axis_tdata, dut.s_axis_tlast, dut.m_axis_tready, dut.aresetn):
        signal.value = 0
    Clock(dut.aclk, PERIOD_NS, unit="ns").start()
    for _ in range(3):
        await FallingEdge(dut.aclk)
    dut.aresetn.value = 1
    for _ in range(2):
        await FallingEdge(dut.aclk)


async def feed(dut: HierarchyObject, words: list[int], size: int, stall: float, wrong_last: int = -1) -> None:
    """Offer words with rubbish in the bits that pad the last byte."""
    rng, bits = Random(1), len(dut.s_axis_tdata)
    used = BITS_IN
    for i, word in enumerate(words):
        while rng.random() < stall:
            dut.s_axis_tvalid.value = 0
            await FallingEdge(dut.aclk)
        dut.s_axis_tvalid.value = 1
        dut.s_axis_tdata.value = word | rng.getrandbits(bits - used) << used
        dut.s_axis_tlast.value = int((i % size == size - 1) != (i == wrong_last))
        while True:
            await ReadOnly()
            taken = int(dut.s_axis_tready.value)
            await FallingEdge(dut.aclk)
            if taken:
                break
    dut.s_axis_tvalid.value = 0


async def drain(dut: HierarchyObject, count: int, stall: float) -> list[tuple[int, int]]:
    """Take beats with their tlast; fail if one changes before it is taken."""
    rng, out, held = Random(2), list[tuple[int, int]](), None
    while len(out) < count:
        ready = rng.random() >= stall
        dut.m_axis_tready.value = int(ready)
        await ReadOnly()
        if int(dut.m_axis_tvalid.value):
            beat = int(dut.m_axis_tdata.value), int(dut.m_axis_tlast.value)
            assert held in (None, beat)
            held = None if ready else beat
            if ready:
                out.append(beat)
        else:
            assert held is None
        await FallingEdge(dut.aclk)
    dut.m_axis_tready.value = 0
    return out


@cocotb.test(timeout_time=50, timeout_unit="us")
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.6), (0.4, 0.4)])
async def samples_pass_in_bytes(dut: HierarchyObject, stalls: tuple[float, float]) -> None:
    words = Traffic.read()
    assert (len(dut.s_axis_tdata), len(dut.m_axis_tdata)) == (16, 16)
    await begin(dut)
    cocotb.start_soon(feed(dut, words.fed, words.size_in, stalls[0]))
    found = await drain(dut, len(words.given), stalls[1])
    assert found == [(word, int(i % words.size_out == words.size_out - 1)) for i, word in enumerate(words.given)]
    assert int(dut.error_o.value) == 0


@cocotb.test(timeout_time=50, timeout_unit="us")
@cocotb.parametrize(wrong=[0, 3, 7])
async def a_wrong_tlast_raises_the_error_and_a_flush_clears_it(dut: HierarchyObject, wrong: int) -> None:
    words = Traffic.read()
    await begin(dut)
    cocotb.start_soon(feed(dut, words.fed[: 3 * words.size_in], words.size_in, 0.0, wrong))
    assert [word for word, _ in await drain(dut, 6, 0.3)] == words.given[:6]  # counters rule: the codes are as before
    assert int(dut.error_o.value) == 1
    for _ in range(60):
        await FallingEdge(dut.aclk)
    await flush(dut)
    assert int(dut.error_o.value) == 0
    cocotb.start_soon(feed(dut, words.fed, words.size_in, 0.2))
    assert [word for word, _ in await drain(dut, len(words.given), 0.2)] == words.given


async def flush(dut: HierarchyObject) -> None:
    """Drop all that is in flight; the cycle after the flush takes and gives nothing."""
    dut.flush_i.value = 1
    await FallingEdge(dut.aclk)
    dut.flush_i.value = 0
    await ReadOnly()
    assert (int(dut.s_axis_tready.value), int(dut.m_axis_tvalid.value)) == (0, 0)
    await FallingEdge(dut.aclk)


@cocotb.test(timeout_time=50, timeout_unit="us")
@cocotb.parametrize(cycles=[1, 2, 5, 9, 14])
async def a_flush_in_mid_stream_starts_over(dut: HierarchyObject, cycles: int) -> None:
    words = Traffic.read()
    await begin(dut)
    task = cocotb.start_soon(feed(dut, words.fed, words.size_in, 0.0))
    for _ in range(cycles):
        await FallingEdge(dut.aclk)
    task.cancel()
    await FallingEdge(dut.aclk)
    dut.s_axis_tvalid.value = 0
    await flush(dut)
    cocotb.start_soon(feed(dut, words.fed, words.size_in, 0.0))
    assert [word for word, _ in await drain(dut, len(words.given), 0.0)] == words.given
    assert int(dut.error_o.value) == 0


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_axis(simulator: str, tmp_path: Path) -> None:
    case = padded()
    design = emit(case.graph, tmp_path / "design", "padded")
    (tmp_path / WORDS).write_text(json.dumps(asdict(Traffic.of(case))))
    (tmp_path / "mem").symlink_to(design.folder / "mem")  # memories lie where the tool runs
    sources = [*design.sources, *(design.folder / name for name in design.manifest["files"]["axis"])]
    run_block(TOP, sources, {}, __name__, cache=cache_dir(), work=tmp_path, simulator=simulator)
