"""``mase_fifo``: order, capacity, timing, and no path through the handshake."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import FIFO_DEPTHS, SIMULATORS, run_common
from tests.hw.stream import Stream, check_registered, cycle, reset, start, transfer

WORDS = [Random(3).getrandbits(8) for _ in range(100)]


def streams(dut: HierarchyObject, depth: int) -> tuple[Stream, Stream]:
    return Stream.of(dut, "in", f"fifo_{depth}"), Stream.of(dut, "out", f"fifo_{depth}")


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=FIFO_DEPTHS, stalls=[(0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.5, 0.5), (0.0, 0.9)])
async def every_beat_leaves_once_and_in_order(dut: HierarchyObject, depth: int, stalls: tuple[float, float]) -> None:
    await start(dut)
    _, beats = await transfer(*streams(dut, depth), WORDS, len(WORDS), stalls)
    assert [beat.data for beat in beats] == WORDS


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=FIFO_DEPTHS)
async def a_beat_is_offered_one_cycle_later_at_full_rate(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    first = cycle()
    taken, beats = await transfer(*streams(dut, depth), WORDS, len(WORDS))
    interval = 2 if depth == 1 else 1
    assert taken == [first + interval * i for i in range(len(WORDS))]
    assert [beat.cycle for beat in beats] == [t + 1 for t in taken]


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=FIFO_DEPTHS)
async def a_stalled_fifo_takes_depth_beats_and_offers_the_first(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    source, sink = streams(dut, depth)
    source.valid.value, source.data.value = 1, 0x5A
    taken = []
    for _ in range(depth + 4):
        await ReadOnly()
        taken.append(int(source.ready.value))
        await FallingEdge(dut.clk_i)
    assert taken == [1] * depth + [0] * 4
    assert (int(sink.valid.value), int(sink.data.value)) == (1, 0x5A)


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=FIFO_DEPTHS)
async def reset_in_mid_stream_empties_it(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    source, sink = streams(dut, depth)
    source.valid.value, source.data.value = 1, 0xFF
    for _ in range(depth):
        await FallingEdge(dut.clk_i)
    source.valid.value = 0
    await reset(dut)
    assert int(sink.valid.value) == 0
    _, beats = await transfer(source, sink, WORDS, len(WORDS))
    assert [beat.data for beat in beats] == WORDS


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=FIFO_DEPTHS)
async def no_path_runs_through_the_handshake(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    await check_registered(*streams(dut, depth), cycles=100)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_fifo(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
