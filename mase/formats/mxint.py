"""Microscaling integers: one power-of-two scale a block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.formats.base import FORMATS, Code, Format, QuantParams, checked, floor_log2, pow2, within

OCP_BASE = -127  # least exponent of E8M0


@FORMATS.add("mxint")
@dataclass(frozen=True)
class MXInt(Format):
    """Integers that share one power-of-two scale per block of the blocked axis.

    A block with exponent e = floor(log2(max |x|)) has step 2**(e - (width - 2)); mantissas round to nearest even and
    saturate at +-(2**(width-1) - 1). Exponents stay in a window of ``2**exp_bits`` values: above it elements saturate,
    below it they denormalise; an all-zero block takes the least exponent.

    Args:
        width: bits of one mantissa, sign included, 2..16.
        block: elements that share one exponent, 1..65536.
        exp_bits: bits of the exponent; 8 is OCP's E8M0, fewer is a window below a calibrated top, 1..8.

    Source: OCP Microscaling Formats v1.0, INT8 element; here with any width.
    """

    width: int = 8
    block: int = 32
    exp_bits: int = 8
    grammar: ClassVar[re.Pattern[str]] = re.compile(r"mxint(\d+)(?:b(\d+))?(?:e(\d+))?")

    def __post_init__(self) -> None:
        within("mxint", "width", self.width, 2, 16)
        within("mxint", "block", self.block, 1, 65536)
        within("mxint", "exp_bits", self.exp_bits, 1, 8)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[1]), int(match[2] or 32), int(match[3] or 8))

    def __str__(self) -> str:
        block = "" if self.block == 32 else f"b{self.block}"
        return f"mxint{self.width}{block}{'' if self.exp_bits == 8 else f'e{self.exp_bits}'}"

    def code_range(self) -> tuple[int, int]:
        return -(1 << self.width - 1) + 1, (1 << self.width - 1) - 1

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        wide = checked(x, self).abs()
        wide = wide[torch.isfinite(wide)]
        top = int(floor_log2(wide.max())) if wide.numel() and bool(wide.max() > 0) else 0
        base = OCP_BASE if self.exp_bits == 8 else max(OCP_BASE, top - self.span)
        return QuantParams(base=torch.tensor(base), axis=axis)

    @property
    def span(self) -> int:
        """Return the greatest exponent less the least."""
        return (1 << self.exp_bits) - 1

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        wide = checked(x, self).movedim(params.axis, -1)
        blocks = self.blocks(wide)
        top = blocks.abs().amax(-1)
        base = self.base(params)
        exponent = floor_log2(top).clamp_(base, base + self.span)
        scaled = (blocks * pow2(self.width - 2 - exponent).unsqueeze(-1)).round_()
        mantissa = scaled.clamp_(*self.code_range()).to(torch.int64).flatten(-2)[..., : wide.shape[-1]]
        return Code(mantissa.movedim(-1, params.axis), exponent.movedim(-1, params.axis))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        axis = params.axis if params is not None else -1
        assert code.exponent is not None
        mantissa, exponent = code.mantissa.movedim(axis, -1), code.exponent.movedim(axis, -1)
        step = pow2(exponent - (self.width - 2)).repeat_interleave(self.block, -1)[..., : mantissa.shape[-1]]
        return (mantissa.to(torch.float64) * step).movedim(-1, axis)

    def blocks(self, x: Tensor) -> Tensor:
        """Return ``[..., n]`` as ``[..., ceil(n / block), block]``, the last block padded with zeros."""
        count = -(-x.shape[-1] // self.block)
        return pad(x, (0, count * self.block - x.shape[-1])).unflatten(-1, (count, self.block))

    def base(self, params: QuantParams) -> int:
        """Return the least exponent of the window."""
        return OCP_BASE if params.base is None else int(params.base)

    def bits(self, shape: Sequence[int]) -> float:
        elements = shape[-1] if shape else 1
        return self.width + self.exp_bits * -(-elements // self.block) / elements

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Block": self.block, "ExpBits": self.exp_bits}
