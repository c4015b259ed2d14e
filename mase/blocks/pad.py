"""Put a border of one code around an image (hw/pad)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from mase.dataflow.block import Pipe
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, control, credit_fifo, registers
from mase.dataflow.schedule import IN, OUT, Actor, Loop, Schedule, Step, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work, ceil_div
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid


class Border(NamedTuple):
    """Rows and columns of pixels on each side of an image."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def around(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width with the border."""
        return size[0] + self.top + self.bottom, size[1] + self.left + self.right


@dataclass(frozen=True)
class PadFoldings:
    """The border before its lanes are known.

    Args:
        size: height and width of the image. cols: of a pixel. width, block, exp_bits: of the elements.
    """

    size: tuple[int, int]
    border: Border
    cols: int
    width: int
    block: int
    exp_bits: int

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of an image: one for each beat that leaves."""
        height, width = self.border.around(self.size)
        return height * width * ceil_div(self.cols, lanes)

    def fifo(self) -> int:
        """Return a FIFO depth that keeps one beat a cycle."""
        return int(self.path(1).latency) + 3

    def path(self, lanes: Count) -> Part:
        """Return all before the output FIFO, at any number of lanes."""
        height, width = self.border.around(self.size)
        bits = self._bits(lanes)
        counted = control(counters=(height + 1, width + 1, ceil_div(self.cols, lanes)))
        place = Part(
            Work(
                adders=((1, height.bit_length()), (1, width.bit_length())),
                gates=((bits, 2), (1, height.bit_length() + width.bit_length())),
            )
        )
        return counted & place >> registers(bits).along(1)

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any number of lanes."""
        return self.path(lanes) >> credit_fifo(self._bits(lanes) + 1, fifo)

    def _bits(self, lanes: Count) -> Count:
        exps = (lanes > self.block) * (lanes // max(1, self.block) - 1) + 1 if self.block else 0
        return lanes * self.width + exps * self.exp_bits


@dataclass(frozen=True, eq=False)
class Pad(Pipe):
    """Surround each image of a stream, pixels in rows of the stream, with pixels of one code.

    Args:
        source: rows are the pixels of an image, row by row, columns its channels. size: height and width of the image.
        mantissa, exponent: of the border's code; of the exponent what is above the grid's base.
    """

    source: StreamType
    size: tuple[int, int]
    border: Border
    mantissa: int = 0
    exponent: int = 0
    sv_module: ClassVar[str] = "mase_pad"

    def __post_init__(self) -> None:
        grid = self.source.grid
        assert self.source.rows == self.size[0] * self.size[1]
        assert min(self.border) >= 0
        check_lanes("pad", grid, self.source.lanes)
        check_border("pad", grid, self.mantissa)

    @property
    def stream_in(self) -> StreamType:
        return self.source

    @property
    def stream_out(self) -> StreamType:
        height, width = self.border.around(self.size)
        return StreamType(height * width, self.source.cols, self.source.lanes, self.source.grid)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        code, base = inputs[0], self.source.grid.base
        exponent = None if code.exponent is None else self._around(code.exponent, base + self.exponent)
        return (Code(self._around(code.mantissa, self.mantissa), exponent),)

    def _around(self, x: Tensor, value: int) -> Tensor:
        border = self.border
        image = x.reshape(len(x), *self.size, x.shape[-1])
        sides = (0, 0, border.left, border.right, border.top, border.bottom)
        return pad(image, sides, value=value).flatten(1, 2)

    def schedule(self) -> Schedule:
        beats, border, (height, width) = self.source.row_beats, self.border, self.size
        give, move = stream(produce=True), stream(take=True, produce=True)
        full = border.around(self.size)[1] * beats
        row = _loops((border.left * beats, give), (width * beats, move), (border.right * beats, give))
        below, before = _loops((border.bottom * full, give)), border.top * full + border.left * beats
        if not before:
            return Schedule((Actor("", (Loop(height, row), *below), {OUT: self.latency}),))
        # The first beat waits for that of the image, whose slot comes free when it leaves.
        wait, enter = Step((IN,), (), (OUT,), (OUT,)), Step((), (IN,), (OUT,), (OUT,))
        rest = _loops((width * beats - 1, move), (border.right * beats, give))
        rows = (Loop(height - 1, row),) if height > 1 else ()
        body = (wait, *_loops((before - 1, give)), enter, *rest, *rows, *below)
        return Schedule((Actor("", body, {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        source, grid = self.source, self.source.grid
        return {
            "Height": self.size[0],
            "Width": self.size[1],
            "Top": self.border.top,
            "Bottom": self.border.bottom,
            "Left": self.border.left,
            "Right": self.border.right,
            "Beats": source.row_beats,
            "Lanes": source.lanes,
            "Tail": source.cols - (source.row_beats - 1) * source.lanes,
            "CodeWidth": grid.width,
            "ExpBits": grid.exp_bits,
            "Block": max(1, grid.block),
            "Mantissa": self.mantissa,
            "Exponent": self.exponent,
            "FifoDepth": self.fifo,
        }

    @property
    def foldings(self) -> PadFoldings:
        """All that its hardware depends on but the lanes."""
        grid = self.source.grid
        return PadFoldings(self.size, self.border, self.source.cols, grid.width, grid.block, grid.exp_bits)

    def part(self) -> Part:
        return self.foldings.part(self.source.lanes, self.fifo)


def check_border(where: str, grid: Grid, mantissa: int) -> None:
    """Raise unless a grid has the code of a border."""
    if not grid.low <= mantissa <= grid.high:
        raise UnsupportedOp(
            f"{where}: the border has the code {mantissa}; codes of the stream are {grid.low} to {grid.high}"
        )


def _loops(*runs: tuple[int, Step]) -> tuple[Loop, ...]:
    return tuple(Loop(count, (step,)) for count, step in runs if count)
