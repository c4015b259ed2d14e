"""Packed weights as layouts of other tools want them: integers of one width, with a scale and a zero point a group."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mase.formats.base import pow2
from mase.formats.int import Int
from mase.formats.mxint import IntegerBlocks
from mase.formats.packed import PackedWeight, Piece
from mase.formats.packed_file import pack, unpack
from passes.ptq.export.base import UnheldError

WORD = 32  # bits


@dataclass(frozen=True, eq=False)
class Affine:
    """Hold ``scale * (code - zero) + offset`` for groups of columns.

    Args:
        width: of codes, which are 0..2**width - 1, int64 ``[outputs, inputs]``. group: columns that share a scale.
        scale: float64 ``[outputs, groups]``. zero: int64, so shaped. symmetric: every zero is 2**(width - 1).
        kind: type of the scales, such as ``fp16``. offset: float64, so shaped, or None.
        order: columns of the model in the order of ``code``; None: as they are.
    """

    width: int
    code: Tensor
    group: int
    scale: Tensor
    zero: Tensor
    symmetric: bool
    kind: str
    offset: Tensor | None = None
    order: Tensor | None = None

    @property
    def per_row(self) -> bool:
        """Whether a row has one scale."""
        return self.scale.shape[1] == 1

    def rows(self, which: Tensor) -> Affine:
        """Return some rows, in the order given."""
        offset = None if self.offset is None else self.offset[which]
        return replace(self, code=self.code[which], scale=self.scale[which], zero=self.zero[which], offset=offset)

    def spread(self, shared: Tensor) -> Tensor:
        """Return what groups share for each column, in the order of ``code``."""
        return shared.repeat_interleave(self.group, 1)[:, : self.code.shape[1]]


def only_piece(weight: PackedWeight) -> Piece:
    """Return the piece of a weight that is one.

    Raises:
        UnheldError: it is more than that.
    """
    if weight.branch is not None:
        raise UnheldError("a low-rank branch; one matrix of weights is held")
    if weight.turn is not None:
        raise UnheldError("weights turned by orthogonal matrices; a matrix as it is stored is held")
    if len(weight.pieces) != 1:
        formats = ", ".join(dict.fromkeys(str(piece.format) for piece in weight.pieces))
        raise UnheldError(f"{len(weight.pieces)} pieces ({formats}); one format a layer is held")
    piece = weight.pieces[0]
    if piece.mask is not None:
        raise UnheldError("a piece under a mask; a whole matrix is held")
    return piece


def affine(weight: PackedWeight) -> Affine:
    """Return a weight as integers with scales.

    Raises:
        UnheldError: it is not that.
    """
    piece = only_piece(weight)
    fmt, (rows, columns) = piece.format, weight.shape
    order = piece.columns
    if order is not None and torch.equal(order, torch.arange(columns)):
        order = None
    if isinstance(fmt, Int):
        return replace(_integers(piece, rows, columns), order=order)
    if isinstance(fmt, IntegerBlocks) and fmt.outer == () and piece.params.axis in (-1, 1) and not fmt.compat:
        assert piece.code.exponent is not None
        half = 1 << fmt.width - 1
        scale = pow2(piece.code.exponent - fmt.offset)
        zero = torch.full_like(piece.code.exponent, half)
        return Affine(fmt.width, piece.code.mantissa + half, fmt.block, scale, zero, True, "e8m0", order=order)
    raise UnheldError(f"format {fmt}; integers with a scale a group or row are held")


def _integers(piece: Piece, rows: int, columns: int) -> Affine:
    fmt, params = piece.format, piece.params
    assert isinstance(fmt, Int) and params.scale is not None
    along = -1 if fmt.group else 0
    if params.scale.ndim and params.axis % 2 != along % 2:
        raise UnheldError(
            f"format {fmt} along axis {params.axis}; groups along the inputs, or a scale an output, are held"
        )
    group = min(fmt.group, columns) if fmt.group else columns

    def shaped(x: Tensor) -> Tensor:
        return x if x.ndim == 2 else x.reshape(-1, 1).expand(rows, 1)

    scale, half = shaped(params.scale), 1 << fmt.width - 1
    unsigned = fmt.zero != "none" and fmt.compat != "qera"
    code = piece.code.mantissa + (0 if unsigned else half)
    zero = torch.full_like(scale, 0 if unsigned else half, dtype=torch.int64)
    if params.zero_point is not None:
        zero = shaped(params.zero_point) + (0 if unsigned else half)
    symmetric = fmt.zero == "none"
    offset = None if params.offset is None else shaped(params.offset)
    return Affine(fmt.width, code, group, scale, zero, symmetric, fmt.scale_type, offset)


def words(values: Tensor, width: int) -> Tensor:
    """Return rows of unsigned integers as rows of 32-bit words: behind each other, the first in the lowest bits."""
    rows, columns = values.shape
    padded = torch.zeros(rows, -(-columns // WORD) * WORD, dtype=torch.int64)
    padded[:, :columns] = values
    whole = pack(padded, width).view(torch.int32).view(rows, -1)
    return whole[:, : -(-columns * width // WORD)].contiguous()


def from_words(packed: Tensor, width: int, columns: int) -> Tensor:
    """Undo :func:`words`."""
    rows, count = packed.shape
    whole = torch.zeros(rows, -(-columns // WORD) * width, dtype=torch.int32)
    whole[:, :count] = packed
    raw = whole.view(torch.uint8).reshape(-1)
    return unpack(raw, width, rows * (whole.shape[1] * WORD // width)).view(rows, -1)[:, :columns]
