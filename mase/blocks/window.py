"""Cut an image that streams by into windows, from a buffer of the least size (hw/window)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div, clog2
from mase.formats import Code

WRITE, READ, BUFFER = "write", "read", "buffer"
Pair = tuple[int, int]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Say where windows lie in images of one size: pairs are (along the height, along the width), in pixels.

    Args:
        image: its size. kernel: pixels of a window. stride: from one window to the next. dilation: from one pixel of a
            window to the next.
    """

    image: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        assert min(*self.image, *self.kernel, *self.stride, *self.dilation, *self.count) >= 1

    @property
    def count(self) -> Pair:
        """Windows along each axis."""
        far = (d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))
        height, width = ((n - f - 1) // s + 1 for n, f, s in zip(self.image, far, self.stride, strict=True))
        return height, width

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.image[0] * self.image[1]

    @property
    def trivial(self) -> bool:
        """Tell whether each pixel is a window, so that there is nothing to cut."""
        return self.taps == 1 and self.stride == (1, 1)

    @property
    def span(self) -> int:
        """Consecutive pixels that a window needs."""
        (kernel_height, kernel_width), (down, right) = self.kernel, self.dilation
        return (kernel_height - 1) * down * self.image[1] + (kernel_width - 1) * right + 1

    @property
    def steps(self) -> tuple[int, int, int]:
        """Pixels from the start of a window to that of the next: in its row, in the next row, in the next image."""
        (height, width), (down, right) = self.count, self.stride
        last = ((height - 1) * down * self.image[1], (width - 1) * right)
        return right, down * self.image[1] - last[1], self.pixels - sum(last)

    def starts(self) -> Places:
        """Return the first pixel of each window, and that of the next image after them."""
        (height, width), (down, right) = self.count, self.stride
        rows, cols = np.arange(height) * down * self.image[1], np.arange(width) * right
        return np.append((rows[:, None] + cols).reshape(-1), self.pixels)

    def cut(self, x: Tensor, groups: int = 1) -> Tensor:
        """Return ``[samples, windows * groups * taps, features / groups]`` from ``[samples, pixels, features]``."""
        (height, width), (kernel_height, kernel_width) = self.count, self.kernel
        image = x.contiguous().reshape(len(x), *self.image, groups, x.shape[-1] // groups)
        sample, row, col, group, feature = image.stride()
        strides = (sample, row * self.stride[0], col * self.stride[1], group)
        inside = (row * self.dilation[0], col * self.dilation[1], feature)
        shape = (len(x), height, width, groups, kernel_height, kernel_width, image.shape[-1])
        return image.as_strided(shape, (*strides, *inside)).reshape(len(x), -1, image.shape[-1])


@lru_cache(maxsize=4096)
def least_buffer(windows: Windows, beats: int, pace: int, read: int) -> int:
    """Return the least slots of a buffer that keeps the rate of the slower side: one beat in a cycle, or one window.

    Deeper buffers delay nothing, so a buffer suffices as soon as there is any firing order that keeps the rate in it.
    Where windows are slower, beats are written as late as that rate allows; else windows are read as soon as their
    beats are there. What then lies in the buffer at once is the least: no order holds less.

    Args:
        beats: of a pixel. pace: cycles of a window. read: those of them until all its beats are read.
    """
    starts, tokens = windows.starts() * beats, windows.pixels * beats
    ends, span, count = starts[:-1] + windows.span * beats, windows.span * beats, len(starts) - 1
    period = max(count * pace, tokens)
    place = np.arange(2 * tokens)
    freed = np.searchsorted(starts[1:], place % tokens, side="right")  # window whose end frees a slot
    if count * pace >= tokens:
        begins = np.arange(count) * pace
        wanted = np.searchsorted(ends, np.arange(tokens), side="right")  # first window that needs a beat
        due = np.append(begins, period)[wanted] - 1
        late = np.append(due, due + period) - place
        written = np.minimum.accumulate(late[::-1])[::-1][:tokens] + np.arange(tokens)
    else:
        due = np.append(ends, ends + period)  # the last beat of a window was written the cycle before
        offsets = np.arange(2 * count) * pace
        begins = (np.maximum.accumulate(due - offsets) + offsets)[count:] - period
        written = np.arange(tokens)
    back = begins[freed] + read + np.where(place < tokens, -period, 0)  # of the image before, and of this one
    used = np.arange(1, tokens + 1) + tokens - np.searchsorted(back, written, side="right")
    return max(span, int(used.max()))


@dataclass(frozen=True)
class WindowFoldings:
    """The windows before their lanes are known.

    Args:
        cols: of a pixel, of all groups. width, block, exp_bits: of the elements.
    """

    windows: Windows
    groups: int
    cols: int
    width: int
    block: int
    exp_bits: int

    def beats(self, lanes: Count) -> Count:
        """Return the beats of a pixel, of all groups."""
        return self.groups * ceil_div(self.cols // self.groups, lanes)

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of an image: one for each beat that leaves, or that comes if those are more."""
        height, width = self.windows.count
        return np.maximum(height * width * self.windows.taps, self.windows.pixels) * self.beats(lanes)

    def buffer(self, lanes: Count, pace: Count) -> Count:
        """Return the least depths that keep the rate where a window takes ``pace`` cycles, each group its part."""
        lanes, pace = np.broadcast_arrays(lanes, pace)
        beats = self.beats(lanes)
        read = pace - (pace - self.windows.taps * beats) // self.groups
        triples = zip(*(n.ravel().tolist() for n in (beats, pace, read)), strict=True)
        return np.array([least_buffer(self.windows, *three) for three in triples], np.int64).reshape(lanes.shape)

    def fifo(self) -> int:
        """Return a FIFO depth that keeps one beat a cycle."""
        return int(self._path(1, 1).latency) + 3

    def part(self, lanes: Count, depth: Count, fifo: Count) -> Part:
        """Return what it is made of at any number of lanes and depth of the buffer."""
        return self._path(lanes, depth) >> credit_fifo(self._bits(lanes) + 1, fifo)

    def _path(self, lanes: Count, depth: Count) -> Part:
        most = np.maximum(depth, max(self.windows.steps) * self.beats(lanes))
        level, address = clog2(most + 1) + 1, clog2(depth)
        counters = (*self.windows.kernel, *self.windows.count, self.groups, self.beats(lanes) // self.groups)
        moved = Part(
            Work(
                registers=level + 2,
                adders=((2, level), (2, address + 1)),
                muxes=((level, 3), (address, 7)),
                counters=(*counters, depth, depth),
            )
        )
        return moved & Part(Work(buffers=((self._bits(lanes), depth),)), latency=1).along()

    def _bits(self, lanes: Count) -> Count:
        exps = (lanes > self.block) * (lanes // max(1, self.block) - 1) + 1 if self.block else 0
        return lanes * self.width + exps * self.exp_bits


@dataclass(frozen=True, eq=False)
class Window(Pipe):
    """Give the windows of each image of a stream, pixel by pixel, from a cyclic buffer.

    Args:
        source: rows are the pixels of an image, row by row, columns its channels. depth: of the buffer, in beats.
        groups: the channels of a pixel in so many parts; a window gives its pixels once for each.
    """

    source: StreamType
    windows: Windows
    buffer: int
    groups: int = 1
    sv_module: ClassVar[str] = "mase_window"

    def __post_init__(self) -> None:
        source = self.source
        assert source.rows == self.windows.pixels
        assert self.buffer >= self.windows.span * source.row_beats, "no window would ever begin"
        check_lanes("window", source.grid, source.lanes)
        part = source.cols // self.groups
        assert part * self.groups == source.cols
        assert self.groups == 1 or part % source.lanes == 0, "a beat holds channels of one group"

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        height, width = self.windows.count
        rows, source = height * width * self.groups * self.windows.taps, self.source
        return StreamType(rows, source.cols // self.groups, source.lanes, source.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        code = inputs[0]
        exponent = None if code.exponent is None else self.windows.cut(code.exponent, self.groups)
        return (Code(self.windows.cut(code.mantissa, self.groups), exponent),)

    def schedule(self) -> Schedule:
        beats, (_, width) = self.source.row_beats, self.windows.count
        read = self.windows.taps * beats
        col, row, image = (step * beats for step in self.windows.steps)
        along = _loop(width - 1, *_give(read, col), *_take(col))
        rows = _loop(self.windows.count[0] - 1, *along, *_give(read, row), *_take(row))
        span = self.windows.span * beats
        body = (*_take(span), *rows, *along, *_give(read, image), *_take(image - span))
        write = Step((IN,), (IN,), (BUFFER,), (BUFFER,))
        actors = (
            Actor(WRITE, (Loop(self.source.beats, (write,)),), {BUFFER: 1}),
            Actor(READ, body, {OUT: self.latency}),
        )
        return Schedule(actors, (Channel((WRITE, BUFFER), (READ, BUFFER), self.buffer, parameter="Depth"),))

    def sv_params(self) -> Mapping[str, int]:
        windows, source = self.windows, self.source
        return {
            "Height": windows.image[0],
            "Width": windows.image[1],
            "KernelHeight": windows.kernel[0],
            "KernelWidth": windows.kernel[1],
            "StrideHeight": windows.stride[0],
            "StrideWidth": windows.stride[1],
            "DilationHeight": windows.dilation[0],
            "DilationWidth": windows.dilation[1],
            "Groups": self.groups,
            "Beats": source.row_beats // self.groups,
            "Bits": source.bits,
            "Depth": self.buffer,
            "FifoDepth": self.fifo,
        }

    @property
    def foldings(self) -> WindowFoldings:
        """All that its hardware depends on but the lanes."""
        grid = self.source.grid
        return WindowFoldings(self.windows, self.groups, self.source.cols, grid.width, grid.block, grid.exp_bits)

    def part(self) -> Part:
        return self.foldings.part(self.source.lanes, self.buffer, self.fifo)


def _take(beats: int) -> tuple[Loop, ...]:
    """Wait for so many beats more, in no time."""
    return _loop(beats, Step((BUFFER,), dwell=0))


def _give(beats: int, back: int) -> tuple[Step | Loop, ...]:
    """Give a window, one beat a cycle, and so many slots back with its last beat."""
    give, last = Step((), (), (OUT,), (OUT,)), Step((), (), (OUT,), (OUT,), 0)
    return (*_loop(beats - 1, give), last, *_loop(back, Step((), (BUFFER,), dwell=0)), Step())


def _loop(count: int, *body: Step | Loop) -> tuple[Loop, ...]:
    return (Loop(count, body),) if count else ()
