"""What pooling and depthwise convolution share: windows of an image, each reduced column by column (hw/reduce)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mase.blocks.output import Output
from mase.blocks.pad import Border, Pad, PadFoldings
from mase.blocks.reduce import Reduce, ReduceFoldings, Reduction
from mase.blocks.window import Pair, Window, WindowFoldings, Windows
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import OpNode
from mase.ops.base import InRow, by_pixels, travel

PAD, WINDOW, NORMALISE = "pad", "window", "normalise"


@dataclass(frozen=True)
class ReducingFoldings(Foldings):
    """The operator before its lanes are known, which all its blocks share.

    Args:
        core: the unit and what follows it. pad, window: what stands before it, or None. blocks: sizes of blocks.
    """

    core: ReduceFoldings
    pad: PadFoldings | None
    window: WindowFoldings | None
    sizes: tuple[int, ...]

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.core.cols, *self.sizes)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        found = self.core.cycles(pe)
        for part in (self.pad, self.window):
            found = found if part is None else np.maximum(found, part.cycles(pe))
        return found

    def buffer(self, lanes: Count) -> Count:
        """Return the depth of the buffer of windows that keeps the unit busy."""
        assert self.window is not None
        return self.window.buffer(lanes, self.core.taps * self.core.beats(lanes))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        before = {PAD: self.pad, WINDOW: self.window}
        return {**{role: part.fifo() for role, part in before.items() if part is not None}, **self.core.fifos(pe)}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        out = dict[str, Work]()
        if self.pad is not None:
            out[PAD] = self.pad.part(pe, fifos[PAD]).work
        if self.window is not None:
            out[WINDOW] = self.window.part(pe, self.buffer(pe), fifos[WINDOW]).work
        return {**out, **self.core.work(pe, fifos)}


@dataclass(frozen=True)
class Places:
    """Say which elements go together: windows of an image with a border, or so many consecutive rows.

    Args:
        image: height and width; rows travel in that order. windows: of the image with its border; None where each
            ``taps`` rows that come one after the other are a group.
        taps: rows of a group.
    """

    image: Pair
    border: Border
    windows: Windows | None
    taps: int

    @classmethod
    def of(cls, image: Pair, border: Border, kernel: Pair, stride: Pair, dilation: Pair) -> Places:
        """Return windows; one that covers the whole image is a group of consecutive rows."""
        bordered = border.around(image)
        if kernel == bordered and dilation == (1, 1):
            return cls(image, border, None, math.prod(kernel))
        return cls(image, border, Windows(bordered, kernel, stride, dilation), math.prod(kernel))

    @property
    def cut(self) -> Windows | None:
        """Windows where there is something to cut."""
        return None if self.windows is None or self.windows.trivial else self.windows

    @property
    def groups(self) -> int:
        """Groups of a sample."""
        if self.windows is not None:
            return math.prod(self.windows.count)
        return math.prod(self.border.around(self.image)) // self.taps

    def rows(self) -> Iterator[list[int | None]]:
        """Yield the rows of each group, None for one of the border: from the definition, for the oracle."""
        height, width = self.image
        _, wide = self.border.around(self.image)

        def row(i: int, j: int) -> int | None:
            i, j = i - self.border.top, j - self.border.left
            return i * width + j if 0 <= i < height and 0 <= j < width else None

        if self.windows is None:
            for group in range(self.groups):
                flat = range(group * self.taps, (group + 1) * self.taps)
                yield [row(*divmod(k, wide)) for k in flat]
            return
        (down, right), (apart, aside), (tall, broad) = self.windows.stride, self.windows.dilation, self.windows.kernel
        for y in range(self.windows.count[0]):
            for x in range(self.windows.count[1]):
                yield [row(y * down + i * apart, x * right + j * aside) for i in range(tall) for j in range(broad)]


@dataclass(frozen=True, eq=False)
class Reducing(InRow):
    """y[g, c] = round(m[c] * reduction over the rows r of group g of x[r, c]).

    Args:
        name: of the node. places: which rows go together. reduction: what becomes of them. out: the rounding.
        come, give: order in which elements of input and result travel. shape: of a sample of the result.
    """

    name: str
    places: Places
    reduction: Reduction
    out: Output
    come: Travel
    give: Travel
    shape: tuple[int, ...]

    @property
    def border(self) -> tuple[int, int]:
        """Code of the border: mantissa and exponent above the base; the least one where the greatest is wanted."""
        if not self.reduction.maximum:
            return 0, 0
        low = self.reduction.low
        return low, self.reduction.x.span if low < 0 else 0

    def reference(self, *inputs: Code) -> Code:
        rows = self.come.travelling(inputs[0], self.reduction.x.block)
        for block in self._padding(max(1, self.reduction.x.block), {}).values():
            (rows,) = block.compute(rows)
        if (windows := self.places.cut) is not None:
            exponent = None if rows.exponent is None else windows.cut(rows.exponent)
            rows = Code(windows.cut(rows.mantissa), exponent)
        return self.give.held(self.out.apply(self.reduction.integers(rows)), self.shape, self.out.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        red, block = self.reduction, self.reduction.x.block
        rows = self.come.travelling(inputs[0], block)
        mantissas, exponents = list[list[list[int]]](), list[list[list[int]]]()
        for n, sample in enumerate(rows.mantissa.tolist()):
            if rows.exponent is not None:
                shifts = (rows.exponent[n] - red.x.base).tolist()
                sample = [
                    [x << e[c // block] for c, x in enumerate(row)] for row, e in zip(sample, shifts, strict=True)
                ]
            outside = self.border[0] << self.border[1]
            found = []
            for group in self.places.rows():
                taken = [[outside] * red.cols if r is None else sample[r] for r in group]
                found.append(self.out.scalar([red.scalar([row[c] for row in taken], c) for c in range(red.cols)]))
            mantissas.append([m for m, _ in found])
            exponents.append([e for _, e in found if e is not None])
        exponent = torch.tensor(exponents) if self.out.grid.block else None
        return self.give.held(Code(torch.tensor(mantissas), exponent), self.shape, self.out.grid.block)

    # -- hardware ---------------------------------------------------------------------------------------------------

    def _padding(self, lanes: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        if not any(self.places.border):
            return {}
        stream = StreamType(math.prod(self.places.image), self.reduction.cols, lanes, self.reduction.x)
        fifo = fifos.get(PAD, LEAST_FIFO)
        return {PAD: Pad(stream, self.places.image, self.places.border, *self.border, fifo=fifo)}

    def _window(self, lanes: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        if (windows := self.places.cut) is None:
            return {}
        stream = StreamType(windows.pixels, self.reduction.cols, lanes, self.reduction.x)
        return {WINDOW: Window(stream, windows, int(self.foldings.buffer(lanes)), fifo=fifos.get(WINDOW, LEAST_FIFO))}

    def _core(self, lanes: int, fifos: Mapping[str, int]) -> Reduce:
        return Reduce(self.places.groups, lanes, self.reduction, self.out, fifo=fifos.get("", LEAST_FIFO))

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        core = self._core(pe, fifos)
        found = {**self._padding(pe, fifos), **self._window(pe, fifos), "": core}
        if core.raw:
            fifo = fifos.get(NORMALISE, LEAST_FIFO)
            found[NORMALISE] = self.out.normaliser(core.groups, self.reduction.cols, pe, core.raw_width, fifo)
        return found

    @cached_property
    def foldings(self) -> ReducingFoldings:
        red, places = self.reduction, self.places
        kind = (red.cols, red.x.width, red.x.block, red.x.exp_bits)
        pad = PadFoldings(places.image, places.border, *kind) if any(places.border) else None
        window = None if places.cut is None else WindowFoldings(places.cut, 1, *kind)
        sizes = (red.x.block, self.out.grid.block)
        return ReducingFoldings(self._core(max(1, *sizes), {}).foldings, pad, window, sizes)

    def warnings(self) -> tuple[str, ...]:
        return self.out.warnings


def images(node: OpNode) -> tuple[Travel, Travel]:
    """Return how input and result of a node travel, which are images.

    Raises:
        UnsupportedOp: not pixel by pixel.
    """
    for edge in (node.inputs[0], node):
        if not by_pixels(edge):
            what = "its result" if edge is node else "its input"
            raise UnsupportedOp(f"{node.where()}: {what} does not travel pixel by pixel; that has no hardware")
    come, give = (Travel.of(edge.record.output.shape[1:], 0) for edge in (node.inputs[0], node))
    return come, give


def orders(node: OpNode, reduced: Sequence[int]) -> tuple[Travel, Travel]:
    """Return how input and result of a node travel that reduces axes of a sample, kept or not, to groups of rows.

    Raises:
        UnsupportedOp: the rows of a group do not come one after the other.
    """
    where, source = node.where(), node.inputs[0]
    before, after = source.record.output.shape[1:], node.record.output.shape[1:]
    come, give = travel(source), travel(node)
    kept = [axis for axis in range(len(before)) if axis not in reduced]
    if come.axes != tuple(before):
        raise UnsupportedOp(f"{where}: takes a view of a tensor that travels in another order; that has no hardware")
    if come.order[-1] in reduced:
        raise UnsupportedOp(
            f"{where}: reduces axis {come.order[-1] + 1}, along which its input travels; that has no hardware"
        )
    there = {axis: axis if len(after) == len(before) else kept.index(axis) for axis in kept}
    wanted = [there[axis] for axis in come.order if axis in there and after[there[axis]] > 1]
    found = [axis for axis in give.order if after[axis] > 1] if give.axes == tuple(after) else []
    outer = [axis in reduced for axis in come.order[:-1] if before[axis] > 1]
    if outer != sorted(outer):
        raise UnsupportedOp(f"{where}: reduces axes that do not travel just before the last one; that has no hardware")
    if give.cols != come.cols or found != wanted:
        raise UnsupportedOp(f"{where}: its result travels along another axis than its input; that has no hardware")
    return come, give
