"""Blocks of exact integers become one exponent and rounded mantissas; the two rules that are easily swapped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.blocks.block_normalise import BlockNormalise, normalise, normalise_scalar
from mase.dataflow.schedule import run
from mase.formats import QuantParams
from mase.formats.grid import Grid
from mase.formats.mxint import MXInt
from mase.testing import module_parameters


def grid(width: int, block: int, exp_bits: int = 4, base: int = -3) -> Grid:
    fmt = MXInt(width, block, exp_bits)
    return fmt.grid(QuantParams(base=torch.tensor(base)), "here")


def both(row: list[int], unit: int, target: Grid) -> tuple[list[int], list[int]]:
    """Return mantissas and exponents of one row, equal by the vectorised rule and by the definition."""
    code = normalise(torch.tensor([row], dtype=torch.float64), unit, target)
    assert code.exponent is not None
    found = code.mantissa[0].tolist(), code.exponent[0].tolist()
    assert found == normalise_scalar(row, unit, target)
    return found


def test_a_block_by_hand() -> None:  # greatest 20 -> exponent 4, step 4: 5, -1.75, 0.5 to even, 1.5 to even
    assert both([20, -7, 2, 6], 0, grid(4, 4)) == ([5, -2, 0, 2], [4])


def test_the_exponent_is_that_of_the_exact_maximum() -> None:
    """31 has exponent 4 and would round to 8 * 4 = 32: the mantissa saturates at 7, the exponent stays."""
    assert both([31, 16], 0, grid(4, 2)) == ([7, 4], [4])
    assert both([-31, 30], 0, grid(4, 2)) == ([-7, 7], [4])  # 30 ties between 7 and 8


@pytest.mark.parametrize(("row", "rival"), [([31], 5), ([15], 4), ([-63], 6), ([61, 1], 6)])
def test_border_inputs_of_an_exponent_after_rounding(row: list[int], rival: int) -> None:
    """Found by search: rounding to 3 bits first would carry into the next exponent."""
    _, (exponent, *_) = both(row, 0, grid(4, 2))
    top = max(map(abs, row))
    step = 1 << top.bit_length() - 3
    assert round(top / step) * step >= 1 << rival
    assert exponent == rival - 1


def test_the_window_clamps_both_ends() -> None:
    target = grid(4, 1, exp_bits=2, base=2)  # exponents 2..5
    assert both([1, 100, 2], 0, target) == ([1, 7, 2], [2, 5, 2])
    assert both([0], 0, target) == ([0], [2])


def test_a_partial_block_counts_as_zero_beyond_the_row() -> None:
    assert both([1, 1, 8], 0, grid(4, 2))[1] == [0, 3]


def test_relu_before_and_after_differ() -> None:
    """Found by search: a negative maximum sets the exponent, so the ReLU must come first."""
    row, target = [-16, 3], grid(4, 2)
    after = [max(m, 0) for m in both(row, 0, target)[0]], both(row, 0, target)[1]
    assert after == ([0, 1], [4])
    assert both([0, 3], 0, target) == ([0, 6], [1])


@given(
    st.lists(st.integers(-(1 << 52), 1 << 52) | st.integers(-40, 40), min_size=1, max_size=9),
    st.integers(-60, 60),
    st.integers(2, 16),
    st.sampled_from((1, 2, 4, 8)),
    st.integers(1, 8),
    st.integers(-127, 60),
)
def test_vectorised_equals_definition(
    row: list[int], unit: int, width: int, block: int, exp_bits: int, base: int
) -> None:
    both(row, unit, grid(width, block, exp_bits, base))


def block(cols: int, lanes: int, size: int, rows: int = 1, fifo: int = 2) -> BlockNormalise:
    return BlockNormalise(rows, cols, lanes, 12, 0, grid(4, size), fifo=fifo)


def test_parameters_are_those_of_the_module() -> None:
    assert set(block(5, 2, 4).sv_params()) == set(module_parameters("mase_block_normalise"))


@pytest.mark.parametrize(("unit", "base"), [(-500, 0), (500, 0), (0, -127), (-120, 120)])
def test_an_offset_beyond_everything_is_cut_where_nothing_changes(unit: int, base: int) -> None:
    target = grid(4, 2, 3, base)
    row = [2047, -2048, 1, 0]
    cut = BlockNormalise(1, 4, 2, 12, unit, target).sv_params()["Offset"]
    assert both(row, unit, target)[0] == both(row, base + cut, target)[0]
    assert both(row, unit, target)[1] == both(row, base + cut, target)[1]


@pytest.mark.parametrize("cols", [1, 2, 7, 8, 9, 16, 17, 24])
@pytest.mark.parametrize(("lanes", "size"), [(1, 1), (1, 8), (2, 8), (8, 8), (16, 8), (4, 4)])
@pytest.mark.parametrize("rows", [1, 3])
def test_closed_form_equals_the_recurrence(cols: int, lanes: int, size: int, rows: int) -> None:
    deep = block(cols, lanes, size, rows, fifo=1 << 20)
    schedule = deep.schedule()
    timing = run(schedule.actors, schedule.channels, 12)
    assert timing.interval == schedule.interval() == int(deep.normaliser.cycles(lanes))
