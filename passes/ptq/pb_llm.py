"""PB-LLM: the weights that matter most in 8 bits, all others by their signs (docs/ptq/pb_llm.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.formats import QuantParams
from mase.formats.int import Int
from mase.formats.packed import PackedWeight, Piece
from mase.formats.scales import round_scale
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.fields import number, whole
from passes.ptq.planes import SIGNS


@METHODS.add("pb_llm")
@dataclass(frozen=True)
class PbLlm(Quantizer):
    """Keep a share of the weights in 8 bits, binarize the rest, correct later columns for the error.

    Args:
        salient: share of the weights of a layer, by ``w^2 / U_jj^2``; the paper has 0.1 and 0.3.
        bits: of these, 2..8, with a scale and a zero point a row and group. group: columns that share scales.
        damp: as in GPTQ.

    Source: Y. Shang et al., PB-LLM, ICLR 2024.
    """

    salient: float = 0.1
    bits: int = 8
    group: int = 128
    damp: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        number("pb_llm.salient", self.salient, 0, 1)
        whole("pb_llm.bits", self.bits, 2, 8)
        whole("pb_llm.group", self.group, 1)
        number("pb_llm.damp", self.damp, 0, 1)

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"pb_llm: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        weight = factor.cleaned(layer.weight, where)
        mask = _most(factor.salience(weight), self.salient)
        high = Int(self.bits, channel=True, zero="int", scale_type="fp16")
        groups: list[tuple[Tensor, QuantParams, QuantParams]] = []

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            own = columns[: self.group]
            w, kept = rest[:, : len(own)], mask[:, own]
            size = ((w.abs() * ~kept).sum(1) / (~kept).sum(1).clamp(min=1)).to(torch.float64)
            signs = QuantParams(torch.where(size == 0, 0.0, round_scale(size, "fp16")), axis=0)
            params = high.calibrate(w * kept, 0)
            groups.append((own, params, signs))
            return _rounder(mask, params, signs, high)

        dense = propagate(weight, factor, begin, self.group)
        pieces = []
        for own, params, signs in groups:
            pieces.append(Piece.of(dense[:, own], high, params, own, mask[:, own]))
            pieces.append(Piece.of(dense[:, own], SIGNS, signs, own, ~mask[:, own], derived=True))
        return PackedWeight((weight.shape[0], weight.shape[1]), tuple(pieces))


def _rounder(mask: Tensor, params: QuantParams, signs: QuantParams, fmt: Int) -> Rounder:
    assert params.scale is not None and params.zero_point is not None and signs.scale is not None
    step, zero, size = params.scale.float(), params.zero_point.float(), signs.scale.float()
    low, high = fmt.code_range()

    def rounder(weights: Tensor, column: int) -> Tensor:
        fine = ((weights / step).round() + zero).clamp(low, high).sub(zero).mul(step)
        return torch.where(mask[:, column], fine, torch.where(weights >= 0, size, -size))

    return rounder


def _most(salience: Tensor, share: float) -> Tensor:
    """Return which elements are the greatest share of all."""
    count = round(share * salience.numel())
    if count == 0:
        return torch.zeros_like(salience, dtype=torch.bool)
    least = salience.flatten().kthvalue(salience.numel() - count + 1)[0]
    return salience >= least
