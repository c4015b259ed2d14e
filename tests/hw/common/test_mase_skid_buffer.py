"""``mase_skid_buffer``: order, two entries, latency of one cycle, full rate, outputs from flip-flops."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import SIMULATORS, SKID_WIDTHS, run_common
from tests.hw.stream import Stream, check_registered, cycle, start, transfer


def streams(dut: HierarchyObject, width: int) -> tuple[Stream, Stream]:
    return Stream.of(dut, "in", f"skid_{width}"), Stream.of(dut, "out", f"skid_{width}")


def words(width: int) -> list[int]:
    return [Random(5 + i).getrandbits(width) for i in range(100)]


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(width=SKID_WIDTHS, stalls=[(0.4, 0.0), (0.0, 0.4), (0.5, 0.5), (0.0, 0.9)])
async def every_beat_leaves_once_and_in_order(dut: HierarchyObject, width: int, stalls: tuple[float, float]) -> None:
    await start(dut)
    _, beats = await transfer(*streams(dut, width), words(width), 100, stalls)
    assert [beat.data for beat in beats] == words(width)


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(width=SKID_WIDTHS)
async def a_beat_is_offered_one_cycle_later_at_full_rate(dut: HierarchyObject, width: int) -> None:
    await start(dut)
    first = cycle()
    taken, beats = await transfer(*streams(dut, width), words(width), 100)
    assert taken == list(range(first, first + 100))
    assert [beat.cycle for beat in beats] == [t + 1 for t in taken]


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(width=SKID_WIDTHS)
async def a_stalled_slice_takes_two_beats(dut: HierarchyObject, width: int) -> None:
    await start(dut)
    source, _ = streams(dut, width)
    source.valid.value = 1
    taken = []
    for _ in range(5):
        await ReadOnly()
        taken.append(int(source.ready.value))
        await FallingEdge(dut.clk_i)
    assert taken == [1, 1, 0, 0, 0]


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(width=SKID_WIDTHS)
async def no_path_runs_through_the_handshake(dut: HierarchyObject, width: int) -> None:
    await start(dut)
    await check_registered(*streams(dut, width), cycles=100)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_skid_buffer(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
