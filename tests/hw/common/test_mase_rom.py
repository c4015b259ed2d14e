"""``mase_rom``: the words of the image, word 0 first, one cycle after their address."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import ROM_WORDS, SIMULATORS, run_common
from tests.hw.stream import start


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=list(ROM_WORDS))
async def a_word_comes_one_cycle_after_its_address(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    rom, rng = getattr(dut, f"rom_{depth}"), Random(6)
    addresses = [*range(depth), *(rng.randrange(depth) for _ in range(20))]
    read = []
    for address in addresses:
        rom.addr_i.value = address
        await FallingEdge(dut.clk_i)
        rom.addr_i.value = rng.randrange(depth)  # the word must not follow the address within the cycle
        await ReadOnly()
        read.append(int(rom.data_o.value))
        await FallingEdge(dut.clk_i)
    assert read == [ROM_WORDS[depth][address] for address in addresses]


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_rom(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
