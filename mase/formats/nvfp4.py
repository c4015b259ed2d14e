"""NVFP4: E2M1 elements, an E4M3 scale a block of 16, one float32 scale a tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import (
    FORMATS,
    Code,
    Constants,
    Format,
    Kernel,
    Layout,
    Packed,
    Pieces,
    QuantParams,
    Words,
    checked,
    text_form,
    within,
)
from mase.formats.block_scales import BlockScales, bounds
from mase.formats.blocks import MAX_BLOCK, Tiling, block_pieces, greatest, sharing
from mase.formats.chunks import Scratch
from mase.formats.grid import Grid, off_chip
from mase.formats.minifloat import Minifloat

ELEMENT = Minifloat(2, 1)
SCALE = Minifloat(4, 3)
LEAST_SCALE = 2.0**-6  # least normal E4M3: smaller block scales are raised to it
LEAST_TENSOR = 2.0**-121  # (1 / g) / s is then a float32 for every s
FLOAT32 = torch.finfo(torch.float32)
MOST_TENSOR = FLOAT32.max / (SCALE.top * ELEMENT.top) * (1 - 2.0**-22)  # no number of the format is then infinite


@FORMATS.add("nvfp4")
@dataclass(frozen=True)
class NVFP4(Format):
    """Value q * (s * g): q in E2M1, s in E4M3 for each block, g in float32 for the tensor.

    With M the greatest magnitude of a block and g = (greatest of the tensor) / (448 * 6), at least 2**-121: s is
    M / 6 / g in E4M3, at least 2**-6; q is x * ((1 / g) / s) in E2M1, to nearest even. All of this is float32
    arithmetic, as the hardware has it: the reciprocal may move a tie by one unit.

    Args:
        block: elements that share a scale, 1..65536.
        two_level: False leaves the tensor's scale at 1 (text ``nvfp4l1``).

    Source: NVIDIA, Pretraining Large Language Models with NVFP4, 2025; the choice of scales as in torchao 0.18.
    """

    block: int = 16
    two_level: bool = True
    ebnf: ClassVar[str] = '"nvfp4" ["l1"] ["b" nat]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"nvfp4(l1)?(?:b(\d+))?")
    words: ClassVar[Words] = {}

    def __post_init__(self) -> None:
        within("nvfp4", "block", self.block, 1, MAX_BLOCK)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        return cls(int(match[2] or 16), match[1] is None, **cls._options(match))

    def __str__(self) -> str:
        return f"nvfp4{'' if self.two_level else 'l1'}{'' if self.block == 16 else f'b{self.block}'}"

    def code_range(self) -> tuple[int, int]:
        return ELEMENT.code_range()

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        top = greatest(x, self).clamp(max=FLOAT32.max).to(torch.float32)
        scale = (top / (SCALE.top * ELEMENT.top)).clamp(LEAST_TENSOR, MOST_TENSOR)
        scale = torch.where(top > 0, scale, 1.0) if self.two_level else torch.ones_like(top)
        return QuantParams(scale=scale.to(torch.float64), axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        tiling = Tiling.of(x.ndim, (self.block,), params, str(self))
        blocks = tiling.split(checked(x, self).to(torch.float32))
        scale, _, inverse = self._scales(blocks.abs().amax(-1, keepdim=True), params)
        codes = _element_codes(blocks, inverse)
        return Code(tiling.join(codes, x.shape), scale=tiling.shared_back(SCALE.codes(scale.squeeze(-1)), x.ndim))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        stored = code.scales
        if stored is None or params is None or params.scale is None:
            raise FormatError(
                f"{self}: decode needs a scale for each block and the tensor's scale; pass those of encode"
            )
        tiling = Tiling.of(code.mantissa.ndim, (self.block,), params, str(self))
        scale = SCALE.reals(tiling.shared_last(stored)).to(torch.float32) * self._tensor_scale(params)
        values = ELEMENT.reals(tiling.split(code.mantissa)).to(torch.float32) * scale.unsqueeze(-1)
        return tiling.join(values.to(torch.float64), code.mantissa.shape)

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        tiling = Tiling.of(x.ndim, (self.block,), params, str(self))
        blocks = tiling.split(checked(x, self).to(torch.float32))
        _, step, _ = self._scales(blocks.abs().amax(-1, keepdim=True), params)
        top = tiling.join((step * ELEMENT.top).to(torch.float64).expand_as(blocks), x.shape)
        return -top, top

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        tiling = Tiling.of(len(shape), (self.block,), QuantParams(axis=axis), str(self))
        shared = SCALE.width * tiling.count(shape) + (32 if self.two_level else 0)
        return ELEMENT.width + shared / max(1, math.prod(shape))

    def layout(self) -> Layout:
        return Layout(ELEMENT.layout().element, (("scale", SCALE.width),), sharing((self.block,)))

    def values(self) -> Tensor:
        return ELEMENT.values()

    def sv_params(self) -> Mapping[str, int]:
        return {"ExpBits": ELEMENT.exp, "ManBits": ELEMENT.man, "Block": self.block}

    def grid(self, params: QuantParams, where: str) -> Grid:
        if params.scale is None:
            raise off_chip(self, where, "has no scale")
        nearest = float(self._tensor_scale(params).reshape(-1)[0])
        if params.scale.numel() == 1 and nearest != float(params.scale):
            raise off_chip(
                self,
                where,
                f"has the scale {float(params.scale):g} on a stream; allowed are float32 numbers from "
                f"{LEAST_TENSOR:g} to {MOST_TENSOR:g}, and the nearest is {nearest:.9g}",
            )
        return self._grid(_block_scales(nearest))

    def weight_grid(self, params: QuantParams, where: str) -> Grid:
        if params.scale is None:
            raise off_chip(self, where, "has no scale")
        return self._grid(_block_scales(1.0)).plain  # nothing asks for bounds of weights: any scale of the tensor

    def constants(self, x: Tensor, params: QuantParams, where: str) -> Constants:
        plain, code = self.weight_grid(params, where), self.encode(x, params)
        found, q = _block_scales(1.0), ELEMENT.grid(params, where)
        assert code.scale is not None
        factor, _ = found.scale.split(code.scale)
        packed = Packed(q.plain, q.decoded(code).mantissa, self.block, factor, SCALE.man + 1)
        scaled = self._tensor_scale(params).double() if plain.scaled else None
        return Constants(plain, self._grid(found).decoded(code.on_stream(), params.axis), scaled, packed)

    def _grid(self, found: BlockScales) -> Grid:
        unit, width, top = found.element_unit + found.scale_unit, found.scale.width - 1, found.scale.top
        blocks = replace(ELEMENT.grid(QuantParams(), str(self)), unit=unit, block=self.block, base=0)
        return replace(blocks, exp_bits=width, span=top, scaled=self.two_level, scales=found)

    def _tensor_scale(self, params: QuantParams) -> Tensor:
        """Return the tensor's scale, float32, in its limits."""
        if params.scale is None:
            raise FormatError(f"{self}: the parameters hold no scale; calibrate first")
        return params.scale.to(torch.float32).clamp(LEAST_TENSOR, MOST_TENSOR)

    def _scales(self, top: Tensor, params: QuantParams) -> tuple[Tensor, Tensor, Tensor]:
        """Return each block's E4M3 scale in float64, its step s * g and the reciprocal of that, in float32.

        Args:
            top: float32, the greatest magnitude of each block.
        """
        tensor = self._tensor_scale(params).to(top.device)
        scale = SCALE.reals(_scale_codes(top, tensor))
        narrow = scale.to(torch.float32)
        return scale, narrow * tensor, (1.0 / tensor) / narrow

    def _pieces(self, x: Tensor, y: Tensor, params: QuantParams, limit: int) -> Pieces:
        for source, target in block_pieces(x, y, Tiling.of(x.ndim, (self.block,), params, str(self)), limit):
            yield source, target, params

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        blocks = x.to(torch.float32)
        _, step, inverse = self._scales(blocks.abs().amax(-1, keepdim=True), params)
        codes = _element_codes(blocks, inverse)
        return (ELEMENT.reals(codes).to(torch.float32) * step).to(torch.float64)

    def _kernel(self, params: QuantParams) -> Kernel | None:
        def kernel(x: Tensor, out: Tensor, scratch: Scratch) -> bool:
            top = torch.abs(x, out=scratch.take(2, x.shape)).amax(-1, keepdim=True)
            if not bool(torch.isfinite(top).all()):
                return False
            _, step, inverse = self._scales(top, params)
            ELEMENT.round_(torch.mul(x, inverse, out=out), scratch)
            out.mul_(step)
            return True

        return kernel


def _scale_codes(top: Tensor, tensor: Tensor) -> Tensor:
    """Return the codes of block scales, of the greatest magnitudes of blocks and the scale of the tensor, float32."""
    # by a tensor on the same device: a GPU divides by a number of the CPU through its reciprocal
    wanted = (top / torch.full_like(tensor, ELEMENT.top) / tensor).clamp_(LEAST_SCALE, SCALE.top)
    return SCALE.codes(wanted.to(torch.float64))


def _element_codes(x: Tensor, inverse: Tensor) -> Tensor:
    """Return the codes of elements; ``inverse``: 1 over the step of their blocks, float32."""
    return ELEMENT.codes((x * inverse).clamp_(-ELEMENT.top, ELEMENT.top).to(torch.float64))


@lru_cache(maxsize=256)
def _block_scales(tensor: float) -> BlockScales:
    """Return the bounds of all codes under a scale of the tensor."""
    q, s = (fmt.grid(QuantParams(), "nvfp4") for fmt in (ELEMENT, SCALE))
    assert q.pattern is not None
    assert s.pattern is not None
    g = torch.tensor(tensor, dtype=torch.float32)
    least = int(SCALE.codes(torch.tensor(LEAST_SCALE, dtype=torch.float64)))
    codes = torch.arange(least, s.pattern.top + 1)
    scales = bounds(lambda top: _scale_codes(top, g), codes[1:])
    inverse = (1.0 / g) / SCALE.reals(codes).to(torch.float32).unsqueeze(-1)
    numbers = torch.arange(1, q.pattern.top + 1)
    found = bounds(lambda x: _element_codes(x, inverse.expand(x.shape)), numbers.repeat(len(codes), 1))
    elements = tuple(found[i : i + len(numbers)] for i in range(0, len(found), len(numbers)))
    return BlockScales(tensor, q.pattern, q.unit, s.pattern, s.unit, least, scales, elements)
