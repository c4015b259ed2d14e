"""A border has one code, also in blocks and in tails; one that the grid does not have is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from mase.blocks.pad import Border, Pad
from mase.dataflow.schedule import IN, OUT, run
from mase.dataflow.stream import StreamType
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.testing import count_port

GRID = Grid(5, True, -16, 15)
BLOCKS = Grid(5, True, -15, 15, block=2, exp_bits=3, base=-1, span=7)
SIDES = st.builds(Border, *[st.integers(0, 3)] * 4)


def block(size: tuple[int, int], border: Border, cols: int, lanes: int = 1, grid: Grid = GRID, **code: int) -> Pad:
    return Pad(StreamType(size[0] * size[1], cols, lanes, grid), size, border, fifo=4, **code)


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), SIDES, st.integers(1, 3), st.integers(-16, 15))
def test_the_border_is_that_of_pytorch(size: tuple[int, int], border: Border, cols: int, mantissa: int) -> None:
    x = torch.arange(2 * size[0] * size[1] * cols).reshape(2, *size, cols) % 13
    (found,) = block(size, border, cols, mantissa=mantissa).compute(Code(x.flatten(1, 2)))
    expected = pad(x, (0, 0, border.left, border.right, border.top, border.bottom), value=mantissa)
    assert torch.equal(found.mantissa, expected.flatten(1, 2))


def test_the_border_of_blocks_has_an_exponent() -> None:
    code = Code(torch.ones(1, 1, 3, dtype=torch.int64), torch.zeros(1, 1, 2, dtype=torch.int64))
    (found,) = block((1, 1), Border(left=1), 3, 2, BLOCKS, mantissa=-15, exponent=7).compute(code)
    assert found.mantissa.tolist() == [[[-15] * 3, [1] * 3]]
    assert found.exponent is not None
    assert found.exponent.tolist() == [[[6, 6], [0, 0]]]


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), SIDES, st.integers(1, 5), st.integers(1, 3))
def test_a_beat_leaves_in_each_cycle(size: tuple[int, int], border: Border, cols: int, lanes: int) -> None:
    one = block(size, border, cols, lanes)
    schedule = one.schedule()
    (actor,) = schedule.actors
    assert (count_port(actor.body, IN), count_port(actor.body, OUT)) == (one.stream_in.beats, one.stream_out.beats)
    assert run([actor], [], 6).interval == one.stream_out.beats == one.foldings.cycles(lanes) == schedule.interval()


@pytest.mark.parametrize("mantissa", [-1, 16])
def test_a_border_that_the_grid_cannot_code_is_refused(mantissa: int) -> None:
    with pytest.raises(UnsupportedOp, match=rf"pad: the border has the code {mantissa}; codes of .* are 0 to 15"):
        block((1, 1), Border(1), 1, grid=Grid(4, False, 0, 15), mantissa=mantissa)
