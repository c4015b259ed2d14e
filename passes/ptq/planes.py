"""Binary planes: a part of a matrix as two values a row, with or without a mean, at least error in the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mase.formats import Format, QuantParams
from mase.formats.binary import Binary
from mase.formats.int import Int
from mase.formats.packed import Piece
from mase.formats.scales import round_scale

SIGNS = Binary("channel", "fp16")  # -a or a
PAIRS = Int(1, channel=True, zero="real", scale_type="fp16")  # m - a or m + a


def plane(x: Tensor, columns: Tensor, means: bool, mask: Tensor | None = None, derived: bool = False) -> Piece:
    """Return the part ``x [outputs, columns]`` by its signs: mean m and mean deviation a of each row.

    Args:
        columns: of the matrix. means: m is stored, else 0. mask: elements that count; ``derived``: see ``Piece``.
    """
    fmt, params = _params(x, means, mask)
    return Piece.of(x, fmt, params, columns, mask, derived)


def _params(x: Tensor, means: bool, mask: Tensor | None) -> tuple[Format, QuantParams]:
    x = x.to(torch.float64)
    kept = torch.ones_like(x) if mask is None else mask.to(torch.float64)
    count = kept.sum(1, keepdim=True).clamp(min=1)
    mean = (x * kept).sum(1, keepdim=True) / count if means else torch.zeros(len(x), 1, dtype=torch.float64)
    deviation = ((x - mean).abs() * kept).sum(1) / count.squeeze(1)
    if not means:
        return SIGNS, QuantParams(torch.where(deviation == 0, 0.0, round_scale(deviation, "fp16")), axis=0)
    low = mean.squeeze(1) - deviation
    offset = torch.where(low == 0, 0.0, round_scale(low, "fp16"))
    return PAIRS, QuantParams(round_scale(2 * deviation, "fp16"), offset=offset, axis=0)


def values(*pieces: Piece) -> Tensor:
    """Return the sum of pieces on the same columns, float32."""
    return torch.stack([piece.values() for piece in pieces]).sum(0).to(torch.float32)
