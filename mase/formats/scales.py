"""What real scales are stored as: rounding a scale to its type, its bits, its bit pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mase.formats.base import floor_log2, pow2
from mase.formats.minifloat import Minifloat

ScaleType = Literal["short", "fp32", "fp16", "bf16", "e8m0", "e4m3"]
SCALE_TYPES: tuple[ScaleType, ...] = ("short", "fp32", "fp16", "bf16", "e8m0", "e4m3")
SCALE_BITS: Mapping[str, int] = {"short": 32, "fp32": 32, "fp16": 16, "bf16": 16, "e8m0": 8, "e4m3": 8}
SCALE_FORMATS: Mapping[str, Minifloat] = {
    # fp32 with 15 significand bits: products with codes of up to 9 bits, and the ties halfway between them, are then
    # float32 numbers; the error is at most half a code of 16 bits
    "short": Minifloat(8, 14, special="ieee"),
    "fp32": Minifloat(8, 23, special="ieee"),
    "fp16": Minifloat(5, 10, special="ieee"),
    "bf16": Minifloat(8, 7, special="ieee"),
    "e4m3": Minifloat(4, 3),
}
E8M0_BIAS = 127


def round_scale(scale: Tensor, kind: str) -> Tensor:
    """Return float64 scales as ``kind`` stores them: nearest even, saturating, the sign kept, never 0.

    A power of two (``e8m0``) rounds up in magnitude instead, so that nothing clips that did not before.
    """
    if kind == "e8m0":
        exponent = floor_log2(scale.abs())
        up = exponent + (scale.abs() > pow2(exponent))
        return torch.copysign(pow2(up.clamp_(-E8M0_BIAS, E8M0_BIAS)), scale)
    fmt = SCALE_FORMATS[kind]
    stored = fmt.reals(fmt.codes(scale))
    return torch.where(stored == 0, torch.copysign(fmt.reals(torch.tensor(1)).to(scale.device), scale), stored)


def scale_code(scale: Tensor, kind: str) -> Tensor:
    """Return the stored bit patterns, int64, of scales that ``round_scale`` gave; a sign is not part of an ``e8m0``."""
    return floor_log2(scale) + E8M0_BIAS if kind == "e8m0" else SCALE_FORMATS[kind].codes(scale)


def scale_value(code: Tensor, kind: str) -> Tensor:
    """Return the float64 scales that bit patterns stand for; code 255 of an ``e8m0`` is NaN."""
    if kind == "e8m0":
        return torch.where(code == 255, torch.nan, pow2(code - E8M0_BIAS))
    return SCALE_FORMATS[kind].reals(code)
