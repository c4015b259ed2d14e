"""Windows are those of PyTorch, and their buffer is the least that keeps the rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import unfold

from mase.blocks.window import READ, WRITE, Window, Windows, least_buffer
from mase.dataflow.schedule import IN, OUT, Channel, Loop, Step, run
from mase.dataflow.stream import StreamType
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.netlist import SINK
from mase.testing import count_port

GRID = Grid(8, True, -128, 127)
BLOCKS = Grid(5, True, -15, 15, block=2, exp_bits=3, base=-1, span=7)
CAUSES = {"kernel": (1, 4), "stride": (1, 4), "dilation": (1, 2)}


@st.composite
def places(draw: st.DrawFn) -> Windows:
    """Draw windows: gaps between them, overlaps, tails that none covers, one window, images of one row."""
    kernel, stride, dilation = (tuple(draw(st.integers(*ends)) for _ in range(2)) for ends in CAUSES.values())
    far = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    image = tuple(draw(st.integers(n, n + 7)) for n in far)
    return Windows(image, kernel, stride, dilation)  # type: ignore[arg-type]  # pairs, as drawn


def image(windows: Windows, cols: int, lanes: int = 1, grid: Grid = GRID) -> StreamType:
    return StreamType(windows.pixels, cols, lanes, grid)


def interval(window: Window, pace: int = 1, tensors: int = 8) -> Fraction:
    """Return the interval beside a consumer that takes a window at once, so many times slower than it comes."""
    schedule, (height, width) = window.schedule(), window.windows.count
    read = window.stream_out.beats // (height * width)
    take = Step((IN,), (IN,), (), (OUT,))
    body = (Loop(read - 1, (take,)), replace(take, dwell=1 + read * (pace - 1)))
    sink = replace(SINK, body=(Loop(height * width, body),))
    out = Channel(schedule.port(OUT), (sink.name, IN), window.fifo)
    return run([*schedule.actors, sink], [*schedule.channels, out], tensors).interval


@settings(max_examples=50)
@given(places(), st.integers(1, 3))
def test_windows_are_those_of_pytorch(windows: Windows, channels: int) -> None:
    x = torch.arange(2 * channels * windows.pixels, dtype=torch.float64).reshape(2, channels, *windows.image)
    found = unfold(x, windows.kernel, windows.dilation, 0, windows.stride)  # [n, channels * taps, windows]
    expected = found.unflatten(1, (channels, windows.taps)).permute(0, 3, 2, 1).flatten(1, 2)
    rows = x.flatten(2).transpose(1, 2).long()
    assert torch.equal(windows.cut(rows), expected.long())


def test_groups_come_one_after_the_other() -> None:
    windows = Windows((1, 3), (1, 2))
    x = torch.arange(12).reshape(1, 3, 4)  # three pixels of four channels
    assert windows.cut(x, 2).tolist() == [[[0, 1], [4, 5], [2, 3], [6, 7], [4, 5], [8, 9], [6, 7], [10, 11]]]


@settings(max_examples=60)
@given(places(), st.integers(1, 3))
def test_the_buffer_is_the_least_that_keeps_the_rate(windows: Windows, beats: int) -> None:
    read = windows.taps * beats
    depth = least_buffer(windows, beats, read, read)
    window = Window(image(windows, beats), windows, depth, fifo=4)
    full = window.foldings.cycles(1)
    assert interval(window) == full == window.schedule().interval()
    if depth > windows.span * beats:
        assert interval(replace(window, buffer=depth - 1)) > full


@pytest.mark.parametrize("pace", [2, 5])
def test_a_slower_consumer_needs_a_smaller_buffer(pace: int) -> None:
    windows = Windows((6, 7), (3, 3))
    read = windows.taps
    depths = [least_buffer(windows, 1, read * n, read) for n in (1, pace)]
    assert windows.span <= depths[1] < depths[0] == 2 * windows.span
    window = Window(image(windows, 1), windows, depths[1], fifo=4)
    assert interval(window, pace) == windows.count[0] * windows.count[1] * windows.taps * pace


@settings(max_examples=30)
@given(places(), st.integers(1, 3))
def test_every_beat_and_slot_moves_once_a_sample(windows: Windows, beats: int) -> None:
    window = Window(image(windows, beats), windows, windows.span * beats)
    write, read = window.schedule().actors
    assert count_port(write.body, IN) == window.stream_in.beats
    assert count_port(read.body, OUT) == window.stream_out.beats
    assert (write.name, read.name) == (WRITE, READ)
    slots = [sum(step.count("buffer") for step in _actions(read.body, action)) for action in ("take", "free")]
    assert slots == [window.stream_in.beats] * 2


def _actions(body: tuple[Step | Loop, ...], action: str) -> list[tuple[str, ...]]:
    out = list[tuple[str, ...]]()
    for item in body:
        out += _actions(item.body, action) * item.count if isinstance(item, Loop) else [getattr(item, action)]
    return out


def test_exponents_are_cut_with_their_pixels() -> None:
    windows = Windows((2, 2), (2, 1))
    window = Window(image(windows, 3, 2, BLOCKS), windows, 6)
    code = Code(torch.arange(12).reshape(1, 4, 3), torch.arange(8).reshape(1, 4, 2))
    (found,) = window.compute(code)
    assert found.mantissa.tolist() == [[[0, 1, 2], [6, 7, 8], [3, 4, 5], [9, 10, 11]]]
    assert found.exponent is not None
    assert found.exponent.tolist() == [[[0, 1], [4, 5], [2, 3], [6, 7]]]


def test_prices_of_all_lanes_are_those_of_one_each() -> None:
    windows = Windows((5, 6), (3, 2), (2, 1))
    lanes = np.array([1, 2, 3, 6])
    foldings = Window(image(windows, 6), windows, 200).foldings
    depths = foldings.buffer(lanes, windows.taps * foldings.beats(lanes))
    works = foldings.part(lanes, depths, 4).work
    for i, n in enumerate(lanes.tolist()):
        one = Window(image(windows, 6, n), windows, int(depths[i]), fifo=4)
        assert (one.work().buffers[0][0], one.work().buffers[0][1]) == (works.buffers[0][0][i], works.buffers[0][1][i])
        assert foldings.cycles(lanes)[i] == one.foldings.cycles(n)


def test_lanes_that_cut_blocks_are_refused() -> None:
    windows = Windows((2, 2), (2, 2))
    with pytest.raises(UnsupportedOp, match="3 lanes do not fit blocks of 2"):
        Window(image(windows, 6, 3, BLOCKS), windows, 99)
