"""Parts: cycles and contents of what stands behind, beside and in lanes of each other, for one folding or for many."""

from __future__ import annotations

import numpy as np
import pytest

from mase.cost.device import device
from mase.cost.resources import Resources, bill
from mase.dataflow.part import NOTHING, Part, adder_tree, control, credit_fifo, delay, product, registers, rom, when
from mase.dataflow.work import Work
from tests.hw.operators import Unit, units


def test_cycles_add_behind_and_the_greater_counts_beside() -> None:
    a, b = registers(8) >> registers(4), registers(3)
    assert ((a >> b).latency, (a & b).latency, (b & a).latency) == (3, 2, 2)
    assert (a >> b).work == (a & b).work == Work(registers=15)
    assert ((NOTHING >> a).latency, (a & NOTHING).work) == (2, Work(registers=12))
    assert when(False, a) is NOTHING
    assert when(True, a) is a


def test_lanes_share_counters_and_operands() -> None:
    lane = product(8, 6, 14, words=32) >> control(2, counters=(5,)) >> rom(4, 9)
    many = 3 * lane
    assert (many.latency, many.work.counters, many.work.operand_words) == (2, (5,), 32)
    assert (many.work.multipliers, many.work.registers, many.work.roms) == (((3, 8, 6),), 48, ((12, 9),))
    twice = many >> product(7, 5, 1, words=4)
    assert (twice.work.operand_words, twice.work.multipliers) == (4, ((3, 8, 6), (1, 7, 5)))


def test_what_goes_along_takes_as_long_as_the_pipeline() -> None:
    part = (registers(8) >> adder_tree(5, 8, 99, 1)).along(2)
    assert part.latency == 4
    assert part.work.delays == ((2, 4),)
    assert part.work.registers == 8 + (3 * 9 + 2 * 10 + 11) + 4
    assert registers(8).along().work == Work(registers=9)


def test_arrays_are_one_number_a_folding() -> None:
    lanes = np.array([1, 2, 4, 7])

    def build(n: int) -> Part:  # or an array of them
        whole: Part = n * (product(9, 9, 18) >> registers(18))
        return (whole & delay(n, 3)) >> adder_tree(n, 18, 20, 1) >> credit_fifo(n * 5 + 1, 4)

    together, xcup = build(lanes), device("xcup")  # type: ignore[arg-type]
    found = bill(together.work, xcup)
    for i, n in enumerate(lanes.tolist()):
        alone = build(n)
        assert together.latency[i] == alone.latency
        expected = Resources.of(bill(alone.work, xcup))
        ours = [np.broadcast_to(x, lanes.shape)[i] for x in (found.lut, found.ff, found.dsp, found.bram)]
        assert ours == pytest.approx([expected.lut, expected.ff, expected.dsp, expected.bram], abs=1e-9)


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.scope)
def test_the_cycles_of_a_block_are_those_of_its_part(unit: Unit) -> None:
    schedule, block = unit.block.schedule(), unit.block
    for port in block.outputs:
        actor, inner = schedule.port(port)
        found = next(one for one in schedule.actors if one.name == actor)
        assert found.latency[inner] == block.part().latency
    assert block.work() == block.part().work
