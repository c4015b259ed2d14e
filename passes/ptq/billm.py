"""BiLLM: binary weights, twice for the columns that matter most, and in two sizes for the rest (docs/ptq/billm.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mase.formats.packed import PackedWeight, Piece
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, propagate
from passes.ptq.fields import choice, number, whole
from passes.ptq.planes import plane, values

Compat = Literal["", "code", "paper"]
MOST = 50  # salient columns of a block, less one
BREAKS = 81  # break points that are tried, from the quantile 0.1 to 0.9


@METHODS.add("billm")
@dataclass(frozen=True)
class BiLlm(Quantizer):
    """Binarize blocks of columns, correct later blocks for the error.

    Args:
        block: columns that share scales. damp: as in GPTQ.
        compat: ``""`` searches salient columns and the break point on ``w^2 / U_jj^2`` and stores means, as the
            released code does, but makes good for a block by least squares; ``code`` does that as the released code
            too; ``paper`` searches on the weights and stores no means.

    Source: W. Huang et al., BiLLM, ICML 2024.
    """

    block: int = 128
    damp: float = 0.01
    compat: Compat = ""
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        whole("billm.block", self.block, 2)
        number("billm.damp", self.damp, 0, 1)
        choice("billm.compat", self.compat, get_args(Compat))

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"billm: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        pieces: list[Piece] = []

        def begin(rest: Tensor, columns: Tensor) -> Tensor:
            columns = columns[: self.block]
            w = rest[:, : len(columns)].contiguous()
            salience = (w / factor.upper.diagonal()[columns]).square()
            found = self._pieces(w, salience, columns)
            pieces.extend(piece for _, piece in found)
            out = torch.empty_like(w)
            for own in {id(own): own for own, _ in found}.values():
                out[:, own] = values(*(piece for other, piece in found if other is own))
            return out

        solve = self.compat != "code"
        propagate(factor.cleaned(layer.weight, where), factor, begin, self.block, solve=solve)
        return PackedWeight((layer.weight.shape[0], layer.weight.shape[1]), tuple(pieces))

    def _pieces(self, w: Tensor, salience: Tensor, columns: Tensor) -> list[tuple[Tensor, Piece]]:
        """Return the planes of a block, each with the places of its columns in the block."""
        means, searched = self.compat != "paper", w if self.compat == "paper" else salience
        order = salience.sum(0).argsort(descending=True, stable=True)
        count = _salient(searched[:, order], means)
        top, rest = order[:count].sort()[0], order[count:].sort()[0]
        first = plane(w[:, top], columns[top], means)
        second = plane(w[:, top] - values(first), columns[top], means)
        found = [(top, first), (top, second)]
        if len(rest):
            small = searched[:, rest].abs() < _break(searched[:, rest], means)
            part, where = w[:, rest], columns[rest]
            found.append((rest, plane(part, where, means, small)))
            found.append((rest, plane(part, where, means, ~small, derived=True)))
        return found


def _salient(x: Tensor, means: bool) -> int:
    """Return how many of the first columns get two planes: the least error, the others having one (with means two).

    With means the released code binarizes the others twice as well while it searches; this keeps the number small.
    """
    errors = [
        _error(x[:, :count], 2, means) + _error(x[:, count:], 2 if means else 1, means)
        for count in range(1, min(MOST, x.shape[1]))
    ]
    return 1 + errors.index(min(errors)) if errors else x.shape[1]


def _error(x: Tensor, planes: int, means: bool) -> float:
    """Return the squared error of a part under so many planes, each of what the one before left."""
    for _ in range(planes):
        x = x - x.mean(1, keepdim=True) if means else x
        x = x - torch.copysign(x.abs().mean(1, keepdim=True), x)
    return float(x.square().sum())


def _break(x: Tensor, means: bool) -> float:
    """Return the magnitude that splits a part into two planes of least error."""
    size = x.abs()
    rising = size.flatten().sort()[0]
    points = rising[torch.linspace(0.1, 0.9, BREAKS).mul(len(rising) - 1).long()].tolist()
    errors = [_split_error(x, size, point, means) for point in points]
    return float(points[errors.index(min(errors))])


def _split_error(x: Tensor, size: Tensor, point: float, means: bool) -> float:
    """Return the squared error less the sum of squares, which is the same for all points: ``-n (a^2 + m^2)``."""
    small = size < point
    return sum(_gain(x, size, kept, means) for kept in (small, ~small))


def _gain(x: Tensor, size: Tensor, kept: Tensor, means: bool) -> float:
    count = kept.sum(1, keepdim=True).clamp(min=1)
    if not means:
        return -float(((size * kept).sum(1, keepdim=True).square() / count).sum())
    mean = (x * kept).sum(1, keepdim=True) / count
    deviation = ((x - mean).abs() * kept).sum(1, keepdim=True) / count
    return -float((count * (mean.square() + deviation.square())).sum())


def salient_share(packed: PackedWeight) -> float:
    """Return the share of columns that have two planes; the paper counts one bit more for each."""
    planes: Sequence[Piece] = [piece for piece in packed.pieces if piece.mask is None]
    return sum(len(piece.columns) for piece in planes if piece.columns is not None) / 2 / packed.shape[1]
