"""Quantized weights of a layer as they are stored: pieces, each in a number format of its own (docs/ptq.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import (
    FORMATS,
    Axes,
    Code,
    Constants,
    Format,
    Layout,
    QuantParams,
    Words,
    checked,
    narrowed,
    text_form,
    within,
)
from mase.formats.grid import Grid, off_chip, signed_width
from mase.formats.minifloat import Minifloat
from mase.formats.turn import Turn
from mase.formats.whole import whole

FLAG = 1  # bits of an entry of a bitmap
FLOAT = Minifloat(8, 23, special="ieee")  # what weights are that no container holds
MOST_BITS = 1 << 45  # of a tensor
MOST_APART = 24  # bits of the integers that pieces on chip become together


@dataclass(frozen=True, eq=False)
class Piece:
    """Hold some elements of a matrix of weights in one format.

    Args:
        format: of the elements. params, code: of the part ``[outputs, columns]``; groups lie along its last axis.
        columns: which columns of the matrix the part has, int64, in the order as stored; None: all of them.
        mask: which elements of the part the piece has, bool ``[outputs, columns]``, the others are 0 in it; None: all.
        derived: the mask is the complement of that of the piece before on the same columns, and is not stored.
        paper: bits an element that the method's paper counts, where these differ from what is stored.
    """

    format: Format
    params: QuantParams
    code: Code
    columns: Tensor | None = None
    mask: Tensor | None = None
    derived: bool = False
    paper: float | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        fmt: Format,
        params: QuantParams | None = None,
        columns: Tensor | None = None,
        mask: Tensor | None = None,
        derived: bool = False,
        paper: float | None = None,
    ) -> Piece:
        """Round the part ``x [outputs, columns]`` to the nearest codes; without parameters calibrate on it."""
        params = fmt.calibrate(x, fmt.along(Axes())) if params is None else params
        return cls(fmt, params, fmt.encode(x, params), columns, mask, derived, paper)

    def values(self) -> Tensor:
        """Return the real values of the part, float64, 0 where the piece has no element."""
        real = self.format.decode(self.code, self.params)
        return real if self.mask is None else torch.where(self.mask, real, 0.0)

    def elements(self) -> int:
        """Return how many elements the piece has."""
        return math.prod(self.code.mantissa.shape) if self.mask is None else int(self.mask.sum())

    def stored_bits(self) -> float:
        """Return the bits of codes, shared fields, bitmap; of a masked piece only its own codes are stored."""
        shape = tuple(self.code.mantissa.shape)
        total, own = round(self.format.bits(shape, self.params.axis) * math.prod(shape)), self.elements()
        element = sum(bits for _, bits in self.format.layout().element)
        shared = total - element * math.prod(shape)
        flags = FLAG * math.prod(shape) if self.mask is not None and not self.derived else 0
        return element * own + shared + flags


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Hold a quantized matrix of weights: the sum of its pieces, in order.

    A matrix in one format is one piece. Several widths are several pieces with columns of their own; a second binary
    plane is a piece on the same columns; a permutation is the order of the columns of a piece.

    Args:
        shape: ``(outputs, inputs)``. pieces: as they are stored.
        map_bits: bits that a method counts for which columns a piece has; what these take in a file counts at least.
        branch: ``(a [rank, inputs], b [outputs, rank])`` of a low-rank correction ``y += b (a x)``, or None.
        turn: what the sum of the pieces is turned by, or None.
    """

    shape: tuple[int, int]
    pieces: tuple[Piece, ...]
    map_bits: float = 0.0
    branch: tuple[PackedWeight, PackedWeight] | None = field(default=None)
    turn: Turn | None = None

    @classmethod
    def of(cls, x: Tensor, fmt: Format, params: QuantParams | None = None) -> PackedWeight:
        """Round a matrix to the nearest codes of one format."""
        return cls(_matrix(x.shape), (Piece.of(x, fmt, params),))

    def dense(self) -> Tensor:
        """Return the weights that the layer multiplies with, float32 ``[outputs, inputs]``, without the branch."""
        out = torch.zeros(self.shape, dtype=torch.float64)
        for piece in self.pieces:
            if piece.columns is None:
                out += piece.values()
            else:
                out.index_add_(1, piece.columns, piece.values())
        return (out if self.turn is None else self.turn.back(out)).to(torch.float32)

    def stored_bits(self) -> float:
        """Return all bits that are stored, branch included; divide by ``elements`` for bits a weight."""
        own = sum(piece.stored_bits() for piece in self.pieces)
        own += max(self.map_bits, ColumnMap.of(self).bits) + (0 if self.turn is None else self.turn.bits())
        return own + (sum(part.stored_bits() for part in self.branch) if self.branch else 0)

    def paper_bits(self) -> float:
        """Return the bits that papers count: those of the elements alone, or what the method says."""
        own = 0.0
        for piece in self.pieces:
            element = sum(bits for _, bits in piece.format.layout().element)
            own += piece.elements() * (element if piece.paper is None else piece.paper)
        return own + (sum(part.paper_bits() for part in self.branch) if self.branch else 0)

    @property
    def elements(self) -> int:
        """Weights of the layer."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class ColumnMap:
    """Say how the columns of pieces are written: nothing where all pieces have all of them in order.

    Sets that share no column are one map: the number of its set for each ``unit`` of columns. Others are a bitmap each,
    or, out of order, their indices.

    Args:
        sets: the distinct ones, each once. of: for each piece the place of its set, -1 where it has all columns.
        unit: neighbouring columns that always lie in the same sets. joint: one map for all sets. bits: of it all.
    """

    sets: tuple[Tensor, ...]
    of_piece: tuple[int, ...]
    unit: int
    joint: bool
    bits: int

    @classmethod
    def of(cls, weight: PackedWeight) -> ColumnMap:
        """Find the cheapest way for the columns of a weight."""
        sets: list[Tensor] = []
        places = tuple(-1 if p.columns is None else _place(p.columns, sets) for p in weight.pieces)
        inputs = weight.shape[1]
        owner = torch.full((len(sets), inputs), False)
        for row, columns in zip(owner, sets, strict=True):
            row[columns] = True
        rising = all(bool((s[1:] > s[:-1]).all()) for s in sets)
        unit = _unit(owner) if sets and rising else 1
        joint = bool(sets) and rising and int(owner.sum(0).max()) <= 1
        return cls(tuple(sets), places, unit, joint, cls._count(sets, inputs, unit, joint, bool(owner.any(0).all())))

    @staticmethod
    def _count(sets: Sequence[Tensor], inputs: int, unit: int, joint: bool, covers: bool) -> int:
        if joint:
            return inputs // unit * map_width(len(sets), covers)
        return sum(inputs // unit if ordered(s) else len(s) * index_width(inputs) for s in sets)


def map_width(sets: int, covers: bool) -> int:
    """Return the bits of the number of a set, or of none where the sets do not cover all columns."""
    return max(1, (sets - covers).bit_length())


def index_width(inputs: int) -> int:
    """Return the bits of the index of a column."""
    return max(1, (inputs - 1).bit_length())


def ordered(columns: Tensor) -> bool:
    """Tell whether columns rise."""
    return bool((columns[1:] > columns[:-1]).all())


def _place(columns: Tensor, sets: list[Tensor]) -> int:
    for i, known in enumerate(sets):
        if torch.equal(known, columns):
            return i
    sets.append(columns)
    return len(sets) - 1


def _unit(owner: Tensor) -> int:
    """Return the greatest number of neighbouring columns that divides all runs."""
    changes = (owner[:, 1:] != owner[:, :-1]).any(0).nonzero().flatten() + 1
    return math.gcd(owner.shape[1], *changes.tolist())


@dataclass(frozen=True, eq=False)
class Held:
    """Say what a tensor of a graph is made of.

    Args:
        parts: one a matrix, such as one an expert. shape: of the tensor. transposed: it holds ``[inputs, outputs]``.
    """

    parts: tuple[PackedWeight, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @cached_property
    def dense(self) -> Tensor:
        """What the graph multiplies with, float32."""
        return stacked([part.dense() for part in self.parts], self.transposed).reshape(self.shape)

    def stored_bits(self) -> int:
        """Return all bits that are stored."""
        return math.ceil(sum(part.stored_bits() for part in self.parts))


def stacked(matrices: Sequence[Tensor], transposed: bool) -> Tensor:
    """Return matrices behind each other as a graph has them."""
    return torch.stack([m.t() if transposed else m for m in matrices])


def on_graph(held: Held) -> tuple[Format, QuantParams]:
    """Return format and parameters under which a graph has the weights ``held.dense``.

    One piece in one format is that format, where rounding its values gives them again; all else stays a container.
    """
    if any(part.branch for part in held.parts):
        raise FormatError("packed weights: have a low-rank branch, which is nodes of their own on a graph")
    plain = _plain(held)
    if plain is not None:
        fmt, params = plain
        if torch.equal(fmt.quantize(held.dense, params), held.dense):
            return fmt, params
    return PackedFormat(held.stored_bits()), QuantParams(packed=held)


def _plain(held: Held) -> tuple[Format, QuantParams] | None:
    """Return the one format of all parts, with parameters for the whole tensor, where these may be."""
    pieces = [piece for part in held.parts for piece in part.pieces]
    first = pieces[0]
    simple = all(p.columns is None and p.mask is None and p.format == first.format for p in pieces)
    if not simple or any(len(part.pieces) != 1 for part in held.parts):
        return None
    rank = len(held.shape)
    if len(held.parts) == 1 and rank == 2:
        params = first.params
        return first.format, _turned(params, first.format) if held.transposed else params
    if rank != 3 or held.transposed or first.params.axis % 2 == 0:
        return None
    found: dict[str, Tensor | None] = {}
    for name in ("scale", "zero_point", "offset", "threshold"):
        values = [getattr(p.params, name) for p in pieces]
        if any(v is None or v.ndim != 2 for v in values):
            if not all(v is None for v in values):
                return None
            continue
        found[name] = torch.stack(values)
    if any(p.params.base is not None and not torch.equal(p.params.base, pieces[0].params.base) for p in pieces):  # type: ignore[arg-type]
        return None
    return first.format, replace(first.params, axis=-1, **found)  # type: ignore[arg-type]


def _turned(params: QuantParams, fmt: Format) -> QuantParams:
    """Return the parameters of the transposed matrix."""
    tile: tuple[int, ...] = getattr(fmt, "tile", ())
    axes = (1, 0) if len(tile) > 1 and params.axes is None else None
    shared = {n: getattr(params, n) for n in ("scale", "zero_point", "offset", "threshold")}
    turned = {n: t.t() if t.ndim == 2 else t for n, t in shared.items() if t is not None}
    return replace(params, axis=1 - params.axis % 2, axes=axes, **turned)


@FORMATS.add("packed")
@dataclass(frozen=True)
class PackedFormat(Format):
    """Weights as a container holds them: sums of pieces, each in a format, on some columns or under a mask.

    The parameters carry the container, and the weights are exactly its values. Without one, numbers are float32.

    Args:
        total: bits that the container stores; 0: there is none.
    """

    total: int = 0
    chosen: ClassVar[bool] = True
    ebnf: ClassVar[str] = '"packed" ["b" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"packed(?:b(\d+))?")
    words: ClassVar[Words] = {}

    def __post_init__(self) -> None:
        within("packed", "total", self.total, 0, MOST_BITS)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[1] or 0), **cls._options(match))

    def __str__(self) -> str:
        return f"packed{f'b{self.total}' if self.total else ''}"

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return QuantParams(axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        return Code(FLOAT.codes(self._exact(checked(x, self), params or QuantParams())))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        return FLOAT.reals(code.mantissa)

    def code_range(self) -> tuple[int, int]:
        return FLOAT.code_range()

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        return self.total / max(1, math.prod(shape)) if self.total else float(FLOAT.width)

    def sv_params(self) -> Mapping[str, int]:
        return {}

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        top = torch.tensor(FLOAT.top, dtype=torch.float64, device=x.device)
        return -top, top

    def layout(self) -> Layout:
        return FLOAT.layout()

    def values(self) -> Tensor:
        raise FormatError(f"{self}: has as many values as float32; they are not listed")

    def weight_grid(self, params: QuantParams, where: str) -> Grid:
        return self._integers(params, where)[0]

    def constants(self, x: Tensor, params: QuantParams, where: str) -> Constants:
        self._exact(x, params)
        grid, integers, scale = self._integers(params, where)
        return Constants(grid, Code(integers), scale)

    def _integers(self, params: QuantParams, where: str) -> tuple[Grid, Tensor, Tensor | None]:
        """Return the sum of all pieces as integers in one unit, which all of a tensor share."""
        held = params.packed
        if held is None or len(held.parts) != 1:
            raise off_chip(self, where, "holds no single matrix of pieces; hardware takes those alone")
        weight, parts, scales = held.parts[0], [], []
        if weight.turn is not None:
            raise off_chip(self, where, "is turned by orthogonal matrices; hardware takes weights as they are stored")
        for piece in weight.pieces:
            found = piece.format.constants(piece.values(), piece.params, where)
            grid = found.grid.plain
            integers = grid.integers(found.code, torch.float64)
            parts.append((integers if piece.mask is None else integers * piece.mask, grid.unit, piece.columns))
            scales.append(found.scale)
        first = scales[0]
        if any(s is not first and (s is None or first is None or not torch.equal(s, first)) for s in scales):
            raise off_chip(self, where, "has pieces with real scales of their own; hardware adds pieces on one grid")
        unit = min(u for _, u, _ in parts)
        total = torch.zeros(weight.shape, dtype=torch.float64)
        for integers, own, columns in parts:
            moved = integers * 2.0 ** (own - unit)
            total = total + moved if columns is None else total.index_add_(1, columns, moved)
        low, high = int(total.min()), int(total.max())
        if signed_width(low, high) > MOST_APART:
            raise off_chip(
                self, where, f"takes integers of {signed_width(low, high)} bits; hardware takes {MOST_APART}"
            )
        total = (total.t() if held.transposed else total).reshape(held.shape)
        grid = Grid(signed_width(low, high), True, low, high, unit, scaled=first is not None)
        return grid, whole(total), first

    def _values(self, x: Tensor, params: QuantParams, out: Tensor | None = None) -> Tensor:
        if not x.is_floating_point():
            raise FormatError(f"{self}: data is {x.dtype}; a floating-point tensor is needed")
        y = torch.empty_like(x) if out is None else self._fits(out, x)
        with torch.no_grad():
            return y.copy_(narrowed(self._exact(checked(x, self), params), y.dtype))

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        """Return float32 numbers, as float64; of a container its own, which the data must be."""
        values = narrowed(torch.where(x.isinf(), torch.copysign(torch.full_like(x, FLOAT.top), x), x), torch.float32)
        held = params.packed
        if held is not None and not torch.equal(values, held.dense.to(x.device)):
            raise FormatError(f"{self}: the data are other weights than the container holds; pass its dense values")
        return values.to(torch.float64)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise FormatError(
            f"packed weights: found a tensor with {len(shape)} axes; allowed is a matrix [outputs, inputs]"
        )
    return int(shape[0]), int(shape[1])
