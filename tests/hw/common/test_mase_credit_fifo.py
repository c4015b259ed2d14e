"""``mase_credit_fifo`` behind a pipeline of any latency: nothing is lost, and the credits return when they should."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import FallingEdge, ReadOnly, Timer

from tests.hw.common.grid import CREDIT_DEPTHS, SIMULATORS, run_common
from tests.hw.stream import Beat, cycle, start

WORDS = [Random(4).getrandbits(8) for _ in range(60)]


async def pipeline(
    dut: HierarchyObject, depth: int, latency: int, stalls: tuple[float, float]
) -> tuple[list[int], list[Beat]]:
    """Start a word in each cycle with a credit, push it ``latency`` cycles later; return when each began and left."""
    block, rng = getattr(dut, f"credit_{depth}"), Random(depth)
    flying: dict[int, int] = {}
    started, beats, waiting = list[int](), list[Beat](), None
    while len(beats) < len(WORDS):
        begin = len(started) < len(WORDS) and bool(int(block.credit_o.value)) and rng.random() >= stalls[0]
        if begin:
            flying[cycle() + latency] = WORDS[len(started)]
            started.append(cycle())
        ready = rng.random() >= stalls[1]
        block.take_i.value, block.out_ready_i.value = int(begin), int(ready)
        block.push_i.value = int(cycle() in flying)
        block.push_data_i.value = flying.pop(cycle(), rng.getrandbits(8))
        await ReadOnly()
        if int(block.out_valid_o.value):
            data = int(block.out_data_o.value)
            assert waiting in (None, data), "data changed while it was offered"
            waiting = None if ready else data
            if ready:
                beats.append(Beat(cycle(), data))
        await FallingEdge(dut.clk_i)
    return started, beats


def predicted(depth: int, latency: int) -> list[tuple[int, int]]:
    """Return in which cycle each word is taken and leaves, without stalls."""
    cycles: list[tuple[int, int]] = []
    for i in range(len(WORDS)):
        begin = max(cycles[i - 1][0] + 1 if i else 0, cycles[i - depth][1] + 1 if i >= depth else 0)
        cycles.append((begin, begin + latency + 1))
    return cycles


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=CREDIT_DEPTHS, latency=[1, 2, 5], stalls=[(0.0, 0.5), (0.3, 0.3), (0.0, 0.9)])
async def nothing_is_lost(dut: HierarchyObject, depth: int, latency: int, stalls: tuple[float, float]) -> None:
    await start(dut)
    _, beats = await pipeline(dut, depth, latency, stalls)
    assert [beat.data for beat in beats] == WORDS


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=CREDIT_DEPTHS, latency=[1, 2, 3, 5])
async def a_popped_slot_is_a_credit_in_the_next_cycle(dut: HierarchyObject, depth: int, latency: int) -> None:
    await start(dut)
    first = cycle()
    started, beats = await pipeline(dut, depth, latency, (0.0, 0.0))
    cycles = [(begin - first, beat.cycle - first) for begin, beat in zip(started, beats, strict=True)]
    assert cycles == predicted(depth, latency)


def test_depth_of_latency_plus_two_is_full_rate() -> None:
    for latency in (1, 2, 5):
        assert [begin for begin, _ in predicted(latency + 2, latency)] == list(range(len(WORDS)))
        assert [begin for begin, _ in predicted(latency + 1, latency)] != list(range(len(WORDS)))


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=CREDIT_DEPTHS)
async def there_are_depth_credits(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    block = getattr(dut, f"credit_{depth}")
    taken = 0
    while int(block.credit_o.value):
        block.take_i.value = 1
        taken += 1
        await FallingEdge(dut.clk_i)
    block.take_i.value = 0
    assert taken == depth


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(depth=CREDIT_DEPTHS)
async def credit_and_valid_follow_no_input_within_a_cycle(dut: HierarchyObject, depth: int) -> None:
    await start(dut)
    block = getattr(dut, f"credit_{depth}")
    for push in (0, 1, 0):
        before = (int(block.credit_o.value), int(block.out_valid_o.value))
        for ready in (0, 1):
            block.out_ready_i.value = ready
            block.take_i.value = before[0]
            await Timer(100, "ps")
            assert (int(block.credit_o.value), int(block.out_valid_o.value)) == before
        block.take_i.value, block.push_i.value = int(push == 0 and not before[1]), push
        await FallingEdge(dut.clk_i)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_credit_fifo(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
