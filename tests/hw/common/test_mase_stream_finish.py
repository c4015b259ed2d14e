"""``mase_stream_finish``: packets keep their length around a flush, what was taken leaves, zeros complete the rest."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import FRAMED_BEATS, SIMULATORS, run_common
from tests.hw.stream import start


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(beats=FRAMED_BEATS, flushes=[0.0, 0.05, 0.3])
async def packets_are_whole_whenever_a_flush_comes(dut: HierarchyObject, beats: int, flushes: float) -> None:
    await start(dut)
    block, rng = getattr(dut, f"finish_{beats}"), Random(beats)
    expected, found, place = list[tuple[int, int, int]](), list[tuple[int, int, int]](), 0
    word, mark = 1, 0
    for _ in range(600):
        flush = rng.random() < flushes
        block.flush_i.value, block.out_ready_i.value = int(flush), int(rng.random() < 0.7)
        block.in_valid_i.value, block.in_data_i.value, block.in_marked_i.value = int(word > 0), word, mark
        await ReadOnly()
        given = int(block.out_valid_o.value) and int(block.out_ready_i.value)
        if given:
            parts = (block.out_data_o, block.out_last_o, block.out_marked_o)
            found.append((int(parts[0].value), int(parts[1].value), int(parts[2].value)))
        if word and int(block.in_ready_o.value):
            assert given
            expected.append((word, int(place == beats - 1), int(mark and place == beats - 1)))
            place, word = (place + 1) % beats, 0
        if flush:  # a packet that has begun is completed; the source begins anew
            expected += [(0, int(k == beats - 1), int(k == beats - 1)) for k in range(place, beats) if place]
            place, word = 0, 0
        await FallingEdge(dut.clk_i)
        if not word and rng.random() < 0.8:
            word, mark = rng.randint(1, 63), rng.getrandbits(1)
    assert found == expected[: len(found)]
    assert len(expected) - len(found) < beats
    assert len(found) > 200


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_stream_finish(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
