"""NormalFloat whose scales are quantized in their turn, and whose blocks may be shifted first."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import FORMATS, Code, Layout, QuantParams, Words, checked, text_form, within
from mase.formats.blocks import MAX_BLOCK, Tiling, sharing
from mase.formats.codebook import TableFormat
from mase.formats.nf import NormalFloat
from mase.formats.scales import SCALE_FORMATS, ScaleType, round_scale
from mase.formats.whole import whole

SHARE = 256  # scales that share a step
TOP = 255  # greatest code of a scale
SHIFT = SCALE_FORMATS["e4m3"]  # of a shift, in units of its block's scale
SHIFT_BITS = 8
RANGE = 0.1 / float(torch.special.ndtri(torch.tensor(0.9677083, dtype=torch.float64)))  # of shifts, of the maximum
CANDIDATES = 41  # the paper has 201; the entropy of 64 codes is a step function of the shift


@dataclass(frozen=True)
class _Blocks:
    """What the blocks of a tensor have: ``[..., 1]``, the shift in units of the scale."""

    scale: Tensor
    shift: Tensor | None


@FORMATS.add("nfq")
@dataclass(frozen=True)
class QuantizedNormalFloat(TableFormat):
    """Entry times scale, the scales being 8-bit integers times a step that 256 of them share.

    With ``shift`` a value is (entry + t) times scale: each block is shifted by the median and a share of its greatest
    magnitude, up to +-0.054 of it, under which its codes have most entropy; t is stored in E4M3.

    Args:
        width: stored bits, 2..8; 4 is NF4.
        block: elements that share a scale, 1..65536.
        shift: of blocks (text suffix ``s``).

    Source: Dettmers et al., QLoRA, 2023, double quantization; Qin et al., IR-QLoRA, 2024, information calibration.
    """

    width: int = 4
    block: int = 64
    shift: bool = False
    scale_type: ClassVar[ScaleType] = "short"  # of the steps: scales are then exact in float32
    ebnf: ClassVar[str] = '"nfq" nat ["b" nat] ["s"]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"nfq(\d+)(?:b(\d+))?(s?)")
    words: ClassVar[Words] = {}

    def __post_init__(self) -> None:
        within("nfq", "width", self.width, 2, 8)
        within("nfq", "block", self.block, 1, MAX_BLOCK)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[1]), int(match[2] or 64), match[3] == "s", **cls._options(match))

    def __str__(self) -> str:
        return f"nfq{self.width}{'' if self.block == 64 else f'b{self.block}'}{'s' * self.shift}"

    @cached_property
    def table(self) -> tuple[float, ...]:
        return NormalFloat(self.width).table

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        tiling = Tiling.of(x.ndim, (self.block,), QuantParams(axis=axis), str(self))
        scale = self._chosen(tiling.split(checked(x, self))).scale.flatten()
        rows = torch.nn.functional.pad(scale, (0, -len(scale) % SHARE)).view(-1, SHARE)
        top = rows.amax(1) if len(rows) else torch.zeros(1, dtype=torch.float64)
        return QuantParams(torch.where(top == 0, 0.0, round_scale(top / TOP, self.scale_type)), axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        tiling = Tiling.of(x.ndim, (self.block,), params, str(self))
        blocks = tiling.split(checked(x, self))
        found = self._chosen(blocks)
        steps = self._steps(params, found.scale)
        code = torch.where(steps > 0, (found.scale / steps.clamp(min=1e-300)).floor(), 0.0)  # so that maxima stay
        code = code.clamp(1, TOP).where((found.scale > 0) & (steps > 0), torch.zeros(()))
        scale, stored = code * steps, whole(code)
        units = torch.where(scale > 0, blocks / scale.clamp(min=1e-300), 0.0)
        if found.shift is not None:
            shift = SHIFT.codes(torch.where(scale > 0, found.shift / scale.clamp(min=1e-300), 0.0))
            units, stored = units - SHIFT.reals(shift), stored | shift << 8
        entries = self._entries(units)
        codes = torch.bucketize(units.contiguous(), (entries[1:] + entries[:-1]) / 2)
        return Code(tiling.join(codes, x.shape), scale=tiling.shared_back(stored.squeeze(-1), x.ndim))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        scales = code.scales
        if scales is None or params is None:
            raise FormatError(f"{self}: decode needs the scales of the code and the QuantParams that encode used")
        tiling = Tiling.of(code.mantissa.ndim, (self.block,), params, str(self))
        stored = tiling.shared_last(scales).unsqueeze(-1)
        scale = (stored & TOP) * self._steps(params, stored)
        units = self._entries(scale)[tiling.split(code.mantissa)]
        units = units + SHIFT.reals(stored >> 8) if self.shift else units
        return tiling.join(units * scale + 0.0, code.mantissa.shape)

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        code = self.encode(x, params)
        ends = (torch.full_like(code.mantissa, end) for end in self.code_range())
        low, high = (self.decode(Code(end, scale=code.scale), params) for end in ends)
        return low, high

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        blocks = Tiling.of(len(shape), (self.block,), QuantParams(axis=axis), str(self)).count(shape)
        shared = blocks * sum(bits for _, bits in self.layout().shared) + 32 * max(1, math.ceil(blocks / SHARE))
        return self.width + shared / max(1, math.prod(shape))

    def layout(self) -> Layout:
        shift = (("shift", SHIFT_BITS),) if self.shift else ()
        return Layout((("index", self.width),), (("scale", 8), *shift), sharing((self.block,)))

    def _splits(self) -> bool:
        return False  # steps belong to the whole tensor

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        return self.decode(self.encode(x, params), params)

    def _steps(self, params: QuantParams, like: Tensor) -> Tensor:
        """Return the step of each scale, shaped as the scales ``[..., 1]``."""
        if params.scale is None:
            raise FormatError(f"{self}: the parameters hold no steps of scales; calibrate first")
        steps = params.scale.to(like.device).repeat_interleave(SHARE)[: like.numel()]
        if steps.numel() != like.numel():
            raise FormatError(f"{self}: the parameters hold steps for {steps.numel()} scales, the data {like.numel()}")
        return steps.view(like.shape)

    def _chosen(self, blocks: Tensor) -> _Blocks:
        """Return scales and shifts, both real, of float64 blocks; infinity counts as the greatest float32."""
        most = torch.finfo(torch.float32).max
        blocks = blocks.clamp(-most, most)
        if not self.shift:
            return _Blocks(blocks.abs().amax(-1, keepdim=True), None)
        shift = self._best_shift(blocks)
        return _Blocks((blocks - shift).abs().amax(-1, keepdim=True), shift)

    def _best_shift(self, blocks: Tensor) -> Tensor:
        """Return the shift of each block under which the counts of its codes have the most entropy, ``[..., 1]``."""
        rising = blocks.sort(-1)[0]
        middle, top = rising.quantile(0.5, -1, keepdim=True), blocks.abs().amax(-1, keepdim=True)
        entries = self._entries(blocks)
        bounds = (entries[1:] + entries[:-1]) / 2
        best, least = torch.zeros_like(middle), torch.full_like(middle, torch.inf)
        for factor in torch.linspace(-RANGE, RANGE, CANDIDATES, dtype=torch.float64):
            shift = middle + factor * top
            scale = torch.maximum(rising[..., -1:] - shift, shift - rising[..., :1])
            found = torch.searchsorted(rising, bounds * scale + shift, right=False)
            ends = torch.zeros_like(found[..., :1]), torch.full_like(found[..., :1], self.block)
            counts = found.diff(prepend=ends[0], append=ends[1]).double()
            order = torch.xlogy(counts, counts).sum(-1, keepdim=True)  # the entropy, negated, times the block
            best, least = torch.where(order < least, shift, best), torch.minimum(order, least)
        return best
