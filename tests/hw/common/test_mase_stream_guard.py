"""``mase_stream_guard``: it counts accepted beats only, and a wrong ``last`` sticks until reset."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import GUARD_BEATS, SIMULATORS, run_common
from tests.hw.stream import reset, start


async def watch(dut: HierarchyObject, beats: int, lasts: list[int]) -> list[int]:
    """Move a beat with each ``last``, at random times; return ``error_o`` in the cycle after each."""
    guard, rng, errors = getattr(dut, f"guard_{beats}"), Random(7), []
    for last in lasts:
        while (levels := (rng.getrandbits(1), rng.getrandbits(1))) != (1, 1):
            guard.valid_i.value, guard.ready_i.value = levels
            guard.last_i.value = rng.getrandbits(1)
            await FallingEdge(dut.clk_i)
        guard.valid_i.value, guard.ready_i.value, guard.last_i.value = 1, 1, last
        await FallingEdge(dut.clk_i)
        guard.valid_i.value = 0
        await ReadOnly()
        errors.append(int(guard.error_o.value))
        await FallingEdge(dut.clk_i)
    return errors


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(beats=GUARD_BEATS)
async def right_lasts_are_silent(dut: HierarchyObject, beats: int) -> None:
    await start(dut)
    assert await watch(dut, beats, [int(i % beats == beats - 1) for i in range(4 * beats)]) == [0] * 4 * beats


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(beats=GUARD_BEATS, wrong=[0, 1, 5, 9])
async def a_wrong_last_sticks_until_reset(dut: HierarchyObject, beats: int, wrong: int) -> None:
    await start(dut)
    lasts = [int((i % beats == beats - 1) != (i == wrong)) for i in range(4 * beats + 10)]
    assert await watch(dut, beats, lasts) == [int(i >= wrong) for i in range(len(lasts))]
    await reset(dut)
    assert int(getattr(dut, f"guard_{beats}").error_o.value) == 0


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_stream_guard(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
