"""``mase_stream_resync``: one frame out for each in, of the right length, with a mark where it was damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly

from tests.hw.common.grid import FRAMED_BEATS, SIMULATORS, run_common
from tests.hw.stream import start

Beat = tuple[int, int, int]  # data, last, bad
Given = tuple[int, int, int]  # data, last, damaged


async def through(dut: HierarchyObject, scope: str, beats: Sequence[Beat], ready: float) -> tuple[list[Given], int]:
    """Offer beats with pauses; return what left and ``error_o``, some cycles after the last one was taken."""
    block, rng, out = getattr(dut, scope), Random(len(beats)), list[Given]()
    await start(dut)
    waiting, idle = list(beats), 0
    while idle < 20:
        valid = bool(waiting) and (int(block.in_valid_i.value) or rng.random() < 0.8)
        block.in_valid_i.value, block.out_ready_i.value = int(valid), int(rng.random() < ready)
        if waiting:
            block.in_data_i.value, block.in_last_i.value, block.in_bad_i.value = waiting[0]
        await ReadOnly()
        taken = valid and int(block.in_ready_o.value)
        if int(block.out_valid_o.value) and int(block.out_ready_i.value):
            out.append((int(block.out_data_o.value), int(block.out_last_o.value), int(block.out_damaged_o.value)))
        error = int(block.error_o.value)
        await FallingEdge(dut.clk_i)
        if taken:
            waiting.pop(0)
            block.in_valid_i.value = 0
        idle = 0 if waiting else idle + 1
    return out, error


def frames(beats: int) -> list[list[Beat]]:
    """Return frames of lengths around the right one, some with a bad beat."""
    rng, out = Random(beats), []
    for i in range(60):
        length = rng.choice([beats, beats, *range(1, 2 * beats + 2)])
        bad = rng.randrange(length) if i % 5 == 4 else -1
        out.append([(rng.getrandbits(6), int(k == length - 1), int(k == bad)) for k in range(length)])
    return out


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(beats=FRAMED_BEATS, ready=[1.0, 0.5])
async def each_frame_leaves_with_its_length_and_its_mark(dut: HierarchyObject, beats: int, ready: float) -> None:
    sent, expected = frames(beats), list[Given]()
    for frame in sent:
        data = ([word for word, _, _ in frame] + [0] * beats)[:beats]
        damaged = len(frame) != beats or any(bad for _, _, bad in frame)
        expected += [(word, int(k == beats - 1), int(damaged and k == beats - 1)) for k, word in enumerate(data)]
    found, error = await through(dut, f"resync_{beats}", [beat for frame in sent for beat in frame], ready)
    assert found == expected
    assert error == 1


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(beats=FRAMED_BEATS)
async def right_frames_pass_unmarked(dut: HierarchyObject, beats: int) -> None:
    sent = [(k, int(k % beats == beats - 1), 0) for k in range(6 * beats)]
    assert await through(dut, f"resync_{beats}", sent, 0.6) == (sent, 0)


@cocotb.test(timeout_time=20, timeout_unit="us")
async def without_resync_beats_pass_as_they_come(dut: HierarchyObject) -> None:
    sent = [beat for frame in frames(3) for beat in frame]
    found, error = await through(dut, "watch_3", sent, 0.6)
    assert (found, error) == ([(word, last, 0) for word, last, _ in sent], 1)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_stream_resync(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
