"""``mase_width_converter``: every unit in its place, and every beat in its cycle."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly

from tests.hw.common.grid import CONVERSIONS, SIMULATORS, Conversion, conversion, run_common
from tests.hw.stream import Stream, check_registered, cycle, pack, receive, reset, send, start, transfer

SAMPLES = 3


def firings(case: Conversion) -> Iterator[tuple[bool, bool]]:
    """Yield for each firing whether it takes an input beat and whether it gives an output beat, without end."""
    held = in_beat = out_beat = 0
    while True:
        needed = case.out_tail if out_beat == case.out_beats - 1 else case.out_units
        consumes = held < needed
        if consumes:
            held += case.in_tail if in_beat == case.in_beats - 1 else case.in_units
            in_beat = (in_beat + 1) % case.in_beats
        produces = held >= needed
        if produces:
            held = 0 if case.drop_tail and out_beat == case.out_beats - 1 else held - needed
            out_beat = (out_beat + 1) % case.out_beats
        yield consumes, produces


def traffic(case: Conversion) -> tuple[list[int], list[tuple[int, int]]]:
    """Return input words, rubbish where units do not count, and the ``(data, last)`` that they must become."""
    rng = Random(8)
    row_in = (case.in_beats - 1) * case.in_units + case.in_tail
    row_out = (case.out_beats - 1) * case.out_units + case.out_tail
    rows = SAMPLES * case.rows
    words, units = list[int](), list[int]()
    for _ in range(rows if case.drop_tail else rows * row_out // row_in):
        row = [rng.getrandbits(case.unit_width) for _ in range(case.in_beats * case.in_units)]
        words += [pack(row[i : i + case.in_units], case.unit_width) for i in range(0, len(row), case.in_units)]
        units += row[:row_out] if case.drop_tail else row[:row_in]
    beats = []
    for row in range(rows):
        kept = units[row * row_out : (row + 1) * row_out]
        chunks = [kept[i : i + case.out_units] for i in range(0, row_out, case.out_units)]
        ends = (row + 1) % case.rows == 0
        beats += [(pack(chunk, case.unit_width), int(ends and i == len(chunks) - 1)) for i, chunk in enumerate(chunks)]
    return words, beats


def predicted(case: Conversion, words: int, beats: int) -> tuple[list[int], list[int]]:
    """Return when each input beat is taken and each output beat leaves, without stalls; the first firing is cycle 0."""
    taken, left = list[int](), list[int]()
    now = -1
    for consumes, produces in firings(case):
        if len(taken) == words and len(left) == beats:
            return taken, left
        freed = left[len(left) - case.fifo_depth] if produces and len(left) >= case.fifo_depth else -1
        now = max(now + 1, freed + 1)
        if consumes:
            taken.append(now)
        if produces:
            left.append(now + 2)
    raise AssertionError("firings ended")


def taken_until_full(case: Conversion) -> int:
    """Return how many input beats are taken when no output beat ever leaves."""
    taken = given = 0
    for consumes, produces in firings(case):
        if produces and given == case.fifo_depth:
            return taken
        taken, given = taken + consumes, given + produces
    raise AssertionError("firings ended")


def streams(dut: HierarchyObject, case: Conversion) -> tuple[Stream, Stream]:
    return Stream.of(dut, "in", case.scope), Stream.of(dut, "out", case.scope)


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(case=CONVERSIONS, stalls=[(0.4, 0.0), (0.0, 0.4), (0.5, 0.5), (0.0, 0.9)])
async def every_unit_arrives_in_its_place(dut: HierarchyObject, case: Conversion, stalls: tuple[float, float]) -> None:
    await start(dut)
    words, expected = traffic(case)
    _, beats = await transfer(*streams(dut, case), words, len(expected), stalls)
    assert [(beat.data, beat.last) for beat in beats] == expected


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(case=CONVERSIONS)
async def every_beat_moves_in_its_cycle(dut: HierarchyObject, case: Conversion) -> None:
    await start(dut)
    words, expected = traffic(case)
    first = cycle()
    taken, beats = await transfer(*streams(dut, case), words, len(expected))
    moved = [t - first for t in taken], [beat.cycle - first for beat in beats]
    assert moved == predicted(case, len(words), len(expected))
    assert [(beat.data, beat.last) for beat in beats] == expected


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(case=CONVERSIONS)
async def a_stalled_converter_takes_what_its_fifo_allows(dut: HierarchyObject, case: Conversion) -> None:
    await start(dut)
    source, sink = streams(dut, case)
    source.valid.value, taken = 1, 0
    for _ in range(100):
        await ReadOnly()
        taken += int(source.ready.value)
        await FallingEdge(dut.clk_i)
    assert (taken, int(sink.valid.value)) == (taken_until_full(case), 1)


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(case=CONVERSIONS)
async def reset_in_mid_stream_starts_over(dut: HierarchyObject, case: Conversion) -> None:
    await start(dut)
    words, expected = traffic(case)
    source, sink = streams(dut, case)
    tasks = cocotb.start_soon(send(source, words)), cocotb.start_soon(receive(sink, len(expected)))
    await ClockCycles(dut.clk_i, len(expected) // 2 + 1)
    for task in tasks:
        task.cancel()
    await FallingEdge(dut.clk_i)
    source.valid.value, sink.ready.value = 0, 0
    await reset(dut)
    _, beats = await transfer(source, sink, words, len(expected))
    assert [(beat.data, beat.last) for beat in beats] == expected


@cocotb.test(timeout_time=10, timeout_unit="us")
@cocotb.parametrize(case=CONVERSIONS)
async def no_path_runs_through_the_handshake(dut: HierarchyObject, case: Conversion) -> None:
    await start(dut)
    await check_registered(*streams(dut, case), cycles=60)


def test_firings_of_a_row_by_hand() -> None:  # seven units, two in, three out: 2 4-3 3-3 1+1-1, then the next row
    row = [(True, False), (True, True), (True, True), (True, True)]
    assert list(islice(firings(conversion(7, 2, 3)), 8)) == row * 2


def test_a_narrowing_row_fires_more_often_than_it_takes() -> None:
    row = [(True, True), (False, True), (False, True)]
    assert list(islice(firings(conversion(3, 3, 1)), 6)) == row * 2


@pytest.mark.sim
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_width_converter(simulator: str, tmp_path: Path) -> None:
    run_common(__name__, tmp_path, simulator)
