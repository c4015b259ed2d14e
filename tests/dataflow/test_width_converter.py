"""Re-chunking: the same elements in the same order, at a rate that neither side can beat."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mase.dataflow.stream import StreamType
from mase.dataflow.width_converter import WidthConverter
from mase.errors import UnsupportedOp
from mase.formats import Code, QuantParams
from mase.formats.grid import Grid
from mase.formats.mxint import MXInt
from mase.testing import module_parameters

PLAIN = Grid(5, True, -16, 15)


def blocked(block: int) -> Grid:
    return MXInt(5, block, 3).grid(QuantParams(base=torch.tensor(-2)), "here")


def converter(source: tuple[int, int, int], target: tuple[int, int, int], grid: Grid = PLAIN) -> WidthConverter:
    """Return a converter between streams given as (rows, cols, lanes)."""
    return WidthConverter(StreamType(*source, grid), StreamType(*target, grid))


def test_firings_by_hand() -> None:  # rows of 7, two in, three out
    assert converter((1, 7, 2), (1, 7, 3)).firings() == [(True, False), (True, True), (True, True), (True, True)]


@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 9), st.integers(1, 9))
def test_a_row_takes_at_most_one_cycle_more_than_its_longer_side(rows: int, cols: int, a: int, b: int) -> None:
    block = converter((rows, cols, a), (rows, cols, b))
    longer = max(block.source.beats, block.target.beats)
    assert longer <= block.schedule().interval() <= longer + (rows if a < b else 0)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_a_reshape_moves_every_beat(rows: int, parts: int, size: int, a: int, b: int) -> None:
    block = converter((rows, parts * size, a), (rows * parts, size, b))
    firings = block.firings()
    assert sum(consumes for consumes, _ in firings) == block.source.beats
    assert sum(produces for _, produces in firings) == block.target.beats
    assert all(consumes or produces for consumes, produces in firings)
    assert block.schedule().interval() == len(firings)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 16), st.integers(1, 16), st.sampled_from((0, 1, 2, 4, 8)))
def test_a_unit_divides_both_sides_and_its_elements_share_exponents(
    rows: int, cols: int, a: int, b: int, size: int
) -> None:
    assume(not size or all(n % size == 0 or size % n == 0 for n in (a, b)))
    block = converter((rows, cols, a), (rows, cols, b), blocked(size) if size else PLAIN)
    params = block.sv_params()
    assert a % params["Unit"] == b % params["Unit"] == 0
    assert not size or params["Unit"] % size == 0 or size % params["Unit"] == 0
    assert set(params) == set(module_parameters("mase_stream_converter"))


def test_codes_keep_their_order() -> None:
    block = converter((2, 4, 2), (4, 2, 2), blocked(2))
    code = Code(torch.arange(8).reshape(1, 2, 4), torch.tensor([[[1, 2], [3, 4]]]))
    (out,) = block.compute(code)
    assert out.mantissa.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]
    assert out.exponent is not None
    assert out.exponent.tolist() == [[[1], [2], [3], [4]]]


def test_blocks_that_do_not_tile_both_rows_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match="rows of 4 to rows of 6: blocks of 4 do not tile both"):
        converter((3, 4, 4), (2, 6, 4), blocked(4))
