"""Quantized weights of a layer as they are stored: pieces, each in a number format of its own (docs/ptq.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import Code, Format, QuantParams

FLAG = 1  # bits of an entry of a bitmap


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
        """Round the part ``x [outputs, columns]`` to the nearest codes; by default calibrated on itself."""
        params = fmt.calibrate(x, -1) if params is None else params
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
        total, whole = self.format.bits(shape, -1) * math.prod(shape), self.elements()
        element = sum(bits for _, bits in self.format.layout().element)
        shared = total - element * math.prod(shape)
        flags = FLAG * math.prod(shape) if self.mask is not None and not self.derived else 0
        return element * whole + shared + flags


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Hold a quantized matrix of weights: the sum of its pieces, in order.

    A matrix in one format is one piece. Several widths are several pieces with columns of their own; a second binary
    plane is a piece on the same columns; a permutation is the order of the columns of a piece.

    Args:
        shape: ``(outputs, inputs)``. pieces: as they are stored.
        map_bits: bits of what says which columns a piece has, such as two a group for a map of widths.
        branch: ``(a [rank, inputs], b [outputs, rank])`` of a low-rank correction ``y += b (a x)``, or None.
    """

    shape: tuple[int, int]
    pieces: tuple[Piece, ...]
    map_bits: float = 0.0
    branch: tuple[PackedWeight, PackedWeight] | None = field(default=None)

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
        return out.to(torch.float32)

    def stored_bits(self) -> float:
        """Return all bits that are stored, branch included; divide by ``elements`` for bits a weight."""
        own = sum(piece.stored_bits() for piece in self.pieces) + self.map_bits
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


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise FormatError(
            f"packed weights: found a tensor with {len(shape)} axes; allowed is a matrix [outputs, inputs]"
        )
    return int(shape[0]), int(shape[1])
