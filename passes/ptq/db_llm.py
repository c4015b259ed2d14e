"""DB-LLM: two bits as two binary planes with scales of their own (docs/ptq/db_llm.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.formats import Code, QuantParams
from mase.formats.int import Int
from mase.formats.packed import PackedWeight, Piece
from mase.formats.scales import round_scale
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.fields import number, whole

STARTS = (1.0, 0.85, 0.7, 0.55)  # of the greatest magnitude: where the fit of a group begins
Planes = tuple[Tensor, Tensor]  # the two scales of each row of a group, float32


@dataclass(frozen=True)
class Fit:
    """Two scales a row under which the nearest of 0, a, b and a + b are near, and the error that they leave."""

    scales: Planes
    error: Tensor


@METHODS.add("db_llm")
@dataclass(frozen=True)
class DbLlm(Quantizer):
    """Fit ``a p + b q`` with planes p, q of 0 and 1, and round column by column as GPTQ does.

    Args:
        group: columns that share the two scales of a row. rounds: of least squares and nearest codes in turn.
        damp: as in GPTQ.

    Source: H. Chen et al., DB-LLM, 2024, flexible dual binarization; the scales are distilled layer by layer.
    """

    group: int = 128
    rounds: int = 6
    damp: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        whole("db_llm.group", self.group, 1)
        whole("db_llm.rounds", self.rounds, 0)
        number("db_llm.damp", self.damp, 0, 1)

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"db_llm: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        weight = factor.cleaned(layer.weight, where)
        codes = torch.empty(weight.shape, dtype=torch.int64)
        found: list[Planes] = []

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            own = columns[: self.group]
            found.append(fitted(rest[:, : len(own)], factor.diagonal[own] ** -2, self.rounds))
            table = levels(*found[-1])

            def rounder(weights: Tensor, column: int) -> Tensor:
                codes[:, column] = (table - weights[:, None]).abs_().argmin(1)
                return table.gather(1, codes[:, column, None]).squeeze(1)

            return rounder

        propagate(weight, factor, begin, self.group)
        fmt = Int(
            1, group=self.group, full=True, scale_type="fp16"
        )  # codes -1 and 0: the scale is that of a plane, negated
        pieces = []
        for plane in (0, 1):
            scale = -torch.stack([planes[plane] for planes in found], 1).double()
            pieces.append(Piece(fmt, QuantParams(scale), Code(-(codes >> plane & 1))))
        return PackedWeight((weight.shape[0], weight.shape[1]), tuple(pieces))


def levels(first: Tensor, second: Tensor) -> Tensor:
    """Return what codes 0 to 3 weigh, float32 ``[outputs, 4]``: bit 0 is the first plane, bit 1 the second."""
    return torch.stack([torch.zeros_like(first), first, second, (first.double() + second.double()).float()], 1)


def fitted(w: Tensor, importance: Tensor, rounds: int) -> Planes:
    """Return scales of the least ``sum importance * error^2`` that alternating steps find from several starts.

    The first start is the two-bit integer grid in its full range: -2 s, -s, 0, s with the extreme weight at -2 s.
    """
    extreme = w.gather(1, w.abs().argmax(1, keepdim=True)).squeeze(1)
    best: Fit | None = None
    for start in STARTS:
        one = _measured(w, importance, (extreme * start, extreme * (-0.5 * start)))
        best = one if best is None else _better(one, best)
        for _ in range(rounds):
            one = _measured(w, importance, _squares(w, importance, one.scales))
            best = _better(one, best)
    assert best is not None
    return best.scales


def _measured(w: Tensor, importance: Tensor, scales: Planes) -> Fit:
    first, second = (round_scale(s.double(), "fp16").float() for s in scales)
    table = levels(first, second)
    near = (table[:, None] - w[:, :, None]).abs().amin(2)
    return Fit((first, second), (near.square() * importance).sum(1))


def _better(a: Fit, b: Fit) -> Fit:
    """Return the better of two fits of each row."""
    better = a.error < b.error
    first, second = (torch.where(better, x, y) for x, y in zip(a.scales, b.scales, strict=True))
    return Fit((first, second), torch.where(better, a.error, b.error))


def _squares(w: Tensor, importance: Tensor, scales: Planes) -> Planes:
    """Return the scales of least error for the codes that are nearest under some scales."""
    codes = (levels(*scales)[:, None] - w[:, :, None]).abs().argmin(2)
    p, q = (codes & 1).double(), (codes >> 1 & 1).double()
    h = importance.double()
    pp, pq, qq = ((x * y * h).sum(1) for x, y in ((p, p), (p, q), (q, q)))
    pw, qw = ((x * w * h).sum(1) for x in (p, q))
    pp, qq = pp + 1e-9 * h.mean(), qq + 1e-9 * h.mean()  # a plane without elements
    determinant = pp * qq - pq * pq
    safe = torch.where(determinant.abs() > 0, determinant, 1.0)
    return ((qq * pw - pq * qw) / safe).float(), ((pp * qw - pq * pw) / safe).float()
