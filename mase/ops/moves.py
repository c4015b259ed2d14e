"""Which blocks bring elements to other places: a converter, a cut, a join, a border, or a reorder buffer.

One funnel: a function of layouts says where each element of the result comes from (:func:`sources`); seen in the order
of travel this is a row of places, and the first of the blocks that gives this row is taken.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.blocks.concat import A, B, Concat, concat_part
from mase.blocks.pad import Border, Pad, PadFoldings
from mase.blocks.reorder import LOOPS, Nest, Order, Reorder, reorder_part
from mase.blocks.slice import Cut, Slice, slice_part
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.schedule import OUT
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div
from mase.errors import UnsupportedOp
from mase.formats.grid import Grid
from mase.formats.whole import whole

Places = npt.NDArray[np.int64]
NONE = -1  # the place of an element that is a constant
Shape = tuple[int, ...]
Rows = tuple[int, int]  # rows and columns of a sample


@dataclass(frozen=True)
class Move(Foldings):
    """How a layout moves elements, before it is folded: rows and columns of what comes and goes, and the grid."""

    comes: tuple[Rows, ...]
    goes: Rows
    grid: Grid

    @abstractmethod
    def legal(self, lanes: int) -> bool:
        """Tell whether beats of so many lanes can be moved."""

    @abstractmethod
    def built(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        """Return the blocks for lanes that are legal."""

    def circuit(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        """Return the blocks.

        Raises:
            UnsupportedOp: beats of so many lanes cannot be moved.
        """
        if not self.legal(lanes):
            allowed = ", ".join(str(n) for n in self.lanes()[0])
            raise UnsupportedOp(f"elements cannot be moved {lanes} at a time; allowed are {allowed} lanes")
        return self.built(lanes, fifos)

    def lanes(self) -> tuple[Lanes, Lanes]:
        block, cols = max(1, self.grid.block), max(cols for _, cols in (*self.comes, self.goes))
        every = np.arange(1, -(-cols // block) * block + 1)
        fits = every[(every % block == 0) | (block % every == 0)]
        fits = fits[[self.legal(int(lanes)) for lanes in fits]]
        beats = np.stack([-(-cols // fits) for _, cols in (*self.comes, self.goes)])
        found = fits[np.unique(beats, axis=1, return_index=True)[1]]
        found.sort()
        return found, found

    def cycles(self, simd: Count, pe: Count) -> Count:
        before = sum(rows * ceil_div(cols, simd) for rows, cols in self.comes)
        return np.maximum(before, self.goes[0] * ceil_div(self.goes[1], pe))

    def stream(self, index: int, lanes: int) -> StreamType:
        """Return the stream of an input."""
        return StreamType(*self.comes[index], lanes, self.grid)


@dataclass(frozen=True)
class Cutting(Move):
    """Keep some positions of one axis."""

    cut: Cut

    def legal(self, lanes: int) -> bool:
        return bool(self.cut.legal(lanes))

    def built(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        return Circuit.chain({"": Slice(self.stream(0, lanes), self.cut, fifo=fifos.get("", LEAST_FIFO))})

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": slice_part(self.grid, self.comes[0][1], self.cut, 1, 0).latency + 1}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": slice_part(self.grid, self.comes[0][1], self.cut, simd, fifos[""]).work}


@dataclass(frozen=True)
class Reordering(Move):
    """Give the elements by a nest of loops."""

    order: Order

    def legal(self, lanes: int) -> bool:
        return self.order.legal(lanes)

    def built(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        target = StreamType(*self.goes, lanes, self.grid)
        block = Reorder(self.stream(0, lanes), target, self.order, fifo=fifos.get("", LEAST_FIFO))
        return Circuit.chain({"": block})

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": reorder_part(self.grid, self.order, 1, 0).latency + 1}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": reorder_part(self.grid, self.order, simd, fifos[""]).work}


@dataclass(frozen=True)
class Joining(Move):
    """Put several tensors beside each other: one block less than there are tensors, in a row.

    Args:
        outer: parts of each sample. wide: parts are rows of their own columns.
    """

    outer: int
    wide: bool

    def legal(self, lanes: int) -> bool:
        return not self.wide or not any(cols % lanes for _, cols in self.comes[:-1])

    def built(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        blocks: dict[str, Block] = {}
        wires, inputs, come = list[Wire](), list[Pin](), self.stream(0, lanes)
        for i, role in enumerate(self.roles, 1):
            block = Concat(come, self.stream(i, lanes), self.outer, self.wide, fifo=fifos.get(role, LEAST_FIFO))
            if blocks:
                wires.append(Wire(Pin(next(reversed(blocks)), OUT), Pin(role, A)))
            else:
                inputs.append(Pin(role, A))
            blocks[role], come = block, block.outputs[OUT]
            inputs.append(Pin(role, B))
        return Circuit(blocks, tuple(wires), tuple(inputs), (Pin(self.roles[-1], OUT),))

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the blocks, in order."""
        return (*(f"join{i}" for i in range(len(self.comes) - 2)), "")

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return dict.fromkeys(self.roles, concat_part(self.grid, 1, self.outer, 1, 1, 0).latency + 1)

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        out, before = {}, self._part(0, simd)
        for i, role in enumerate(self.roles, 1):
            part = self._part(i, simd)
            out[role] = concat_part(self.grid, simd, self.outer, before, part, fifos[role]).work
            before = before + part
        return out

    def _part(self, index: int, lanes: Count) -> Count:
        """Return the beats of a part of an input."""
        rows, cols = self.comes[index]
        return rows // self.outer * ceil_div(cols, lanes)


@dataclass(frozen=True)
class Bordering(Move):
    """Put a border of one code around an image."""

    size: tuple[int, int]
    border: Border
    mantissa: int
    exponent: int

    def legal(self, lanes: int) -> bool:
        return True

    def built(self, lanes: int, fifos: Mapping[str, int]) -> Circuit:
        code = self.mantissa, self.exponent
        block = Pad(self.stream(0, lanes), self.size, self.border, *code, fifo=fifos.get("", LEAST_FIFO))
        return Circuit.chain({"": block})

    @property
    def _foldings(self) -> PadFoldings:
        grid = self.grid
        return PadFoldings(self.size, self.border, self.comes[0][1], grid.width, grid.block, grid.exp_bits)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": self._foldings.fifo()}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {"": self._foldings.part(simd, fifos[""]).work}


# -- where elements come from -----------------------------------------------------------------------------------------

Function = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]


def sources(function: Function, attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Places | None:
    """Return, for each element of a sample of the result, its number among those of the inputs' samples one by one.

    Args:
        shapes: of the inputs, with the batch.

    Returns:
        numbers in the shape of a sample, NONE for a constant; None where samples do not stay apart.
    """
    for batch in (2, shapes[0][0]):  # some functions have the batch among their attributes
        try:
            return _sources(function, attrs, [shape[1:] for shape in shapes], batch)
        except RuntimeError:
            continue
    return None


def _sources(function: Function, attrs: Mapping[str, Any], shapes: Sequence[Shape], batch: int) -> Places | None:
    sizes = [math.prod(shape) for shape in shapes]
    total, inputs, first = sum(sizes), list[Tensor](), 0
    for shape, size in zip(shapes, sizes, strict=True):
        numbers = torch.arange(batch)[:, None] * total + first + torch.arange(size)
        inputs.append(numbers.reshape(batch, *shape).double())
        first += size
    found = whole(function(inputs, {**attrs, "value": float(NONE)})).numpy()
    if found.ndim == 0 or found.shape[0] != batch:
        return None
    apart = np.where(found == NONE, NONE, found - np.arange(batch).reshape(-1, *[1] * (found.ndim - 1)) * total)
    if (apart != apart[0]).any() or apart.max(initial=0) >= total:
        return None
    return np.ascontiguousarray(apart[0])


def in_travel(found: Places, comes: Sequence[Travel], order: Travel) -> Places:
    """Return the places of :func:`sources` as inputs and result travel: ``[rows, cols]``, numbers likewise."""
    numbers, first = list[Places](), 0
    for come in comes:
        size = math.prod(come.axes)
        there = _moved(np.arange(size), come).ravel()
        place = np.empty(size, np.int64)
        place[there] = np.arange(size)
        numbers.append(place + first)
        first += size
    place = np.concatenate([*numbers, [NONE]])
    return _moved(place[found.ravel()], order)


def _moved(x: Places, travel: Travel) -> Places:
    return x.reshape(travel.axes).transpose(travel.order).reshape(travel.rows, travel.cols)


# -- which block gives them -------------------------------------------------------------------------------------------


def joining(places: Places, comes: Sequence[Travel], grid: Grid) -> Joining | None:
    """Return the blocks that put tensors beside each other in this order; None if they do not stand so."""
    sizes = [math.prod(come.axes) for come in comes]
    flat, rows, cols = places.ravel(), *places.shape
    other = np.flatnonzero(flat >= sizes[0])
    part = int(other[0]) if other.size else sizes[0]
    if part == 0 or sizes[0] % part:
        return None
    outer, firsts = sizes[0] // part, np.cumsum([0, *sizes[:-1]])
    if any(size % outer for size in sizes):
        return None
    columns = [first + np.arange(size).reshape(outer, -1) for first, size in zip(firsts, sizes, strict=True)]
    if not np.array_equal(np.concatenate(columns, 1).ravel(), flat):
        return None
    parts = [size // outer for size in sizes]
    if sum(parts) == cols:
        found = Joining(tuple((rows, one) for one in parts), (rows, cols), grid, outer, True)
    elif not any(one % cols for one in parts):
        found = Joining(tuple((size // cols, cols) for size in sizes), (rows, cols), grid, outer, False)
    else:
        return None
    whole = all(come.cols == own for come, (_, own) in zip(comes, found.comes, strict=True))
    return found if whole or not grid.block else None


def cutting(places: Places, come: Travel, grid: Grid) -> Cutting | None:
    """Return the cut that keeps these places; None if it is none along one axis."""
    flat, cols, comes = places.ravel(), come.cols, ((come.rows, come.cols),)
    if len(flat) % come.rows == 0:  # of each row some elements
        kept = len(flat) // come.rows
        cut = Cut(come.rows, cols, 0, int(flat[0]), int(flat[1] - flat[0]) if kept > 1 else 1, kept)
        if _keeps(cut, cols, flat) and (not grid.block or kept == places.shape[1]):
            return Cutting(comes, (come.rows, kept), grid, cut)
    nest = Nest.of(flat[::cols] // cols) if len(flat) % cols == 0 else None
    for cut in () if nest is None or (grid.block and places.shape[1] != cols) else _cuts(nest, come.rows):
        if _keeps(cut, cols, flat):
            return Cutting(comes, (len(flat) // cols, cols), grid, cut)
    return None


def _cuts(nest: Nest, total: int) -> Iterator[Cut]:
    """Yield ways to read a nest over so many rows as some positions of one axis."""
    run = nest.loops[-1][0] if nest.loops and nest.loops[-1][1] == 1 else 1
    for inner, loops in ((1, nest.loops), (run, nest.loops[:-1])):
        for outside in range(min(2, len(loops) + 1)):
            outer, period = loops[0] if outside else (1, total)
            rest = loops[outside:] or ((1, inner),)
            kept, stride = rest[0]
            if len(rest) == 1 and not any(n % inner for n in (period, nest.start, stride)):
                yield Cut(outer, period // inner, inner, nest.start // inner, stride // inner, kept)


def _keeps(cut: Cut, cols: int, places: Places) -> bool:
    """Tell whether a cut of rows of so many columns keeps these places."""
    if cut.first < 0 or cut.step < 1 or cut.first + (cut.kept - 1) * cut.step >= cut.size:
        return False
    inner = np.arange(max(1, cut.inner) * (1 if cut.wide else cols))
    axis = (cut.first + np.arange(cut.kept) * cut.step) * len(inner)
    outer = np.arange(cut.outer) * cut.size * len(inner)
    return np.array_equal((outer[:, None, None] + axis[:, None] + inner).ravel(), places)


def bordering(places: Places, come: Travel, code: tuple[int, int], grid: Grid) -> Bordering | None:
    """Return the border of a code around an image; None if constants stand otherwise."""
    constant = places == NONE
    if places.shape[1] != come.cols or (constant.any(1) != constant.all(1)).any():
        return None
    empty = constant[:, 0]
    wanted = places[~empty]
    if not np.array_equal(wanted.ravel(), np.arange(come.rows * come.cols)):
        return None
    rows = np.flatnonzero(~empty)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    height, width = len(runs), len(runs[0])
    across = int(runs[1][0] - runs[0][0]) if height > 1 else len(empty)
    left = int(rows[0]) % across
    if height * width != come.rows or any(len(run) != width for run in runs) or len(empty) % across:
        return None
    if any(int(run[0]) != int(rows[0]) + i * across for i, run in enumerate(runs)):
        return None
    top, tall = int(rows[0]) // across, len(empty) // across
    border = Border(top, tall - top - height, left, across - left - width)
    if min(border) < 0:
        return None
    return Bordering(((come.rows, come.cols),), (len(empty), come.cols), grid, (height, width), border, *code)


def whole_blocks(places: Places, comes: Sequence[Travel], block: int) -> bool:
    """Tell whether each block of the result is one block of an input, as long as it."""
    ends = np.concatenate([np.repeat(np.arange(1, come.rows + 1) * come.cols, come.cols) for come in comes])
    inside = np.concatenate([np.tile(np.arange(come.cols), come.rows) for come in comes])
    shift = np.cumsum([0, *(math.prod(come.axes) for come in comes[:-1])])
    ends = ends + np.repeat(shift, [math.prod(come.axes) for come in comes])
    cols = places.shape[1]
    for start in range(0, cols, block):
        part = places[:, start : start + block]
        constant = part == NONE
        if (constant.any(1) != constant.all(1)).any():
            return False
        part = part[~constant[:, 0]]
        head, length = part[:, 0], part.shape[1]
        if (part != head[:, None] + np.arange(length)).any() or (inside[head] % block).any():
            return False
        if (np.minimum(block, ends[head] - head) != length).any():
            return False
    return True


@lru_cache(maxsize=512)
def planned(
    function: Function,
    attrs: str,
    shapes: tuple[Shape, ...],
    comes: tuple[Travel, ...],
    order: Travel,
    grid: Grid,
    code: tuple[int, int] | None,
) -> Move | str | None:
    """Return the blocks of a layout, None where elements stay in their order, or why there are none.

    Args:
        attrs: as JSON. code: mantissa and exponent above the base of the constant that pads, where the grid has it.
    """
    found = sources(function, json.loads(attrs), shapes)
    if found is None:
        return "moves elements between samples"
    if not found.size:
        return "gives nothing"
    places = in_travel(found, comes, order)
    if grid.block and not whole_blocks(places, comes, grid.block):
        return f"breaks blocks of {grid.block}; allowed are whole ones, or a format without blocks"
    goes = order.rows, order.cols
    if len(comes) > 1:
        return joining(places, comes, grid) or "puts tensors beside each other inside rows"
    come = comes[0]
    if (places == NONE).any():
        if code is None:
            return "has a padding that the grid cannot code; allowed are values that the format holds exactly"
        border = bordering(places, come, code, grid)
        return border or "pads more than the two axes that travel before the fastest one"
    if np.array_equal(places.ravel(), np.arange(come.rows * come.cols)):
        return None
    cut = cutting(places, come, grid)
    if cut is not None:
        return cut
    nest = Nest.of(places.ravel())
    if nest is None or len(nest.loops) > LOOPS:
        return f"gives elements in an order that is not a nest of {LOOPS} loops"
    size = come.rows * come.cols
    return Reordering(((come.rows, come.cols),), goes, grid, Order(nest, size, come.cols, order.cols))
