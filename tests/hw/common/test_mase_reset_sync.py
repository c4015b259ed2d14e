"""``mase_reset_sync``: the reset falls at once and rises with the second rising edge after its release."""

from __future__ import annotations

from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly, Timer

from tests.hw.common.grid import SIMULATORS, run_common
from tests.hw.stream import reset, start


async def levels(dut: HierarchyObject, cycles: int) -> list[int]:
    """Return the reset that the block gives, before each of some rising edges."""
    out = []
    for _ in range(cycles):
        await ReadOnly()
        out.append(int(dut.reset_sync.rst_no.value))
        await FallingEdge(dut.clk_i)
    return out


@cocotb.test(timeout_time=10, timeout_unit="us")
async def it_rises_with_the_second_edge(dut: HierarchyObject) -> None:
    await start(dut)  # ends where the reset is released
    assert await levels(dut, 5) == [0, 0, 1, 1, 1]


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(after=[200, 700, 1300, 1900])
async def it_falls_at_once_and_for_whole_cycles(dut: HierarchyObject, after: int) -> None:
    await start(dut)
    await levels(dut, 4)
    await Timer(after, "ps")  # anywhere in the cycle, for less than one
    dut.rst_ni.value = 0
    await Timer(50, "ps")
    assert int(dut.reset_sync.rst_no.value) == 0
    dut.rst_ni.value = 1
    await FallingEdge(dut.clk_i)
    edges = 1 if after < 1000 else 0  # rising edges since the release
    assert await levels(dut, 4) == [0] * (2 - edges) + [1] * (2 + edges)
    await reset(dut)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_reset_sync(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
