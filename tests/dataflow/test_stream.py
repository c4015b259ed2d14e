"""Beats: lanes low to high, rows apart, exponents above, tails zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.dataflow.stream import StreamType, Travel
from mase.formats import Code
from mase.formats.grid import Grid


def plain(rows: int, cols: int, lanes: int, width: int = 4, signed: bool = True) -> StreamType:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    return StreamType(rows, cols, lanes, Grid(width, signed, low, high))


def blocked(
    rows: int, cols: int, lanes: int, block: int, width: int = 4, exp_bits: int = 3, base: int = -5
) -> StreamType:
    high = (1 << width - 1) - 1
    return StreamType(
        rows, cols, lanes, Grid(width, True, -high, high, 0, False, block, exp_bits, base, (1 << exp_bits) - 1)
    )


def test_lane_0_is_lowest_and_rows_do_not_share_a_beat() -> None:
    stream = plain(rows=2, cols=3, lanes=2)
    beats = stream.pack(Code(torch.tensor([[[1, 2, 3], [-1, -2, -3]]])))
    assert (stream.row_beats, stream.beats, stream.bits, stream.bytes) == (2, 4, 8, 1)
    assert beats.tolist() == [[[0x21], [0x03], [0xEF], [0x0D]]]


def test_exponents_lie_above_the_elements_less_base() -> None:
    stream = blocked(rows=1, cols=5, lanes=4, block=2)
    code = Code(torch.tensor([[[1, 2, 3, 4, 5]]]), torch.tensor([[[-5, -3, 2]]]))
    assert (stream.exponents, stream.bits) == (2, 16 + 6)
    first, second = (int.from_bytes(beat.tobytes(), "little") for beat in stream.pack(code)[0])
    assert first == 0x4321 | (0 << 16) | (2 << 19)
    assert second == 0x0005 | (7 << 16)  # the block past the end carries the base


def test_a_block_over_several_beats_repeats_its_exponent() -> None:
    stream = blocked(rows=1, cols=6, lanes=2, block=4)
    code = Code(torch.arange(6).reshape(1, 1, 6), torch.tensor([[[-4, -2]]]))
    words = [int.from_bytes(beat.tobytes(), "little") for beat in stream.pack(code)[0]]
    assert [word >> 8 for word in words] == [1, 1, 3]


@st.composite
def streams(draw: st.DrawFn) -> StreamType:
    rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    if draw(st.booleans()):
        return plain(rows, cols, draw(st.integers(1, 9)), draw(st.integers(1, 17)), draw(st.booleans()))
    block = draw(st.sampled_from((1, 2, 4, 8)))
    lanes = draw(st.integers(1, 16).filter(lambda n: n % block == 0 or block % n == 0))
    return blocked(
        rows, cols, lanes, block, draw(st.integers(2, 12)), draw(st.integers(1, 8)), draw(st.integers(-127, 20))
    )


@given(streams(), st.integers(0, 3), st.integers(0, 1 << 30))
def test_unpack_undoes_pack(stream: StreamType, samples: int, seed: int) -> None:
    generator, grid = torch.Generator().manual_seed(seed), stream.grid
    mantissa = torch.randint(grid.low, grid.high + 1, (samples, stream.rows, stream.cols), generator=generator)
    exponent = None
    if grid.block:
        blocks = (samples, stream.rows, -(-stream.cols // grid.block))
        exponent = torch.randint(0, grid.span + 1, blocks, generator=generator) + grid.base
    beats = stream.pack(Code(mantissa, exponent))
    assert beats.shape == (samples, stream.beats, stream.bytes)
    assert stream.tails(beats)
    found = stream.unpack(beats)
    assert torch.equal(found.mantissa, mantissa)
    assert (found.exponent is None and exponent is None) or torch.equal(found.exponent, exponent)


@pytest.mark.parametrize("stream", [plain(2, 3, 2), plain(1, 1, 3, signed=False), blocked(1, 5, 4, 2)])
def test_a_tail_lane_that_is_not_zero_is_seen(stream: StreamType) -> None:
    beats = np.zeros((1, stream.beats, stream.bytes), np.uint8)
    assert stream.tails(beats)
    first_tail = stream.cols - (stream.row_beats - 1) * stream.lanes
    bit = first_tail * stream.grid.width
    beats[0, -1, bit // 8] |= 1 << bit % 8
    assert not stream.tails(beats)


def test_exponents_past_the_end_are_no_tail() -> None:
    stream = blocked(rows=1, cols=2, lanes=4, block=2)
    beats = np.zeros((1, 1, stream.bytes), np.uint8)
    beats[0, 0, 2] = 0xFF
    assert stream.tails(beats)


@pytest.mark.parametrize("cols", [1, 2, 6])
def test_rows_in_parts_travel_in_the_same_order(cols: int) -> None:
    whole, code = Travel.of((6, 4, 3), 0), Code(torch.arange(2 * 72).reshape(2, 6, 4, 3))
    parts = whole.parted(cols)
    assert (parts.rows, parts.cols, parts.strides) == (72 // cols, cols, whole.strides)
    assert torch.equal(parts.travelling(code).mantissa.flatten(1), whole.travelling(code).mantissa.flatten(1))
    assert torch.equal(parts.held(parts.travelling(code), (6, 4, 3)).mantissa, code.mantissa)
