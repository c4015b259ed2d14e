"""Depthwise convolution: each channel is summed over its own windows, lane by lane (hw/reduce).

A convolution with as many groups as channels becomes this (mase/ops/conv.py): a unit of so many lanes, where the sum
over channels that other convolutions need would leave all lanes but one without work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.blocks.align import GUARD, Alignment
from mase.blocks.output import Output
from mase.blocks.pad import Border
from mase.blocks.reduce import EXACT_BITS, Reduction
from mase.blocks.sums import Accumulation
from mase.blocks.window import Windows
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.stream import Travel
from mase.errors import UnsupportedOp
from mase.formats import Format, QuantParams
from mase.formats.base import pow2
from mase.formats.grid import Grid
from mase.formats.whole import whole
from mase.graph import Json, OpNode
from mase.ops.base import not_negative
from mase.ops.reducing import Places, Reducing

WIDEST = 36  # bits of an input with its exponent, up to which sums are exact by themselves
BIAS_BITS = 8  # significant bits that a bias keeps in aligned sums, however small the products are
Formatted = tuple[Format, QuantParams]


class Weights(NamedTuple):
    """Weights as integers, the exponent of their unit, their real scale, and whether they are powers of two or 0."""

    integers: Tensor
    unit: int
    scale: Tensor | None
    powers: bool


class Depthwise(Reducing):
    """y[c] = act(bias[c] + sum over the pixels t of a window of x[t, c] w[t, c]), exact, one rounding."""

    @classmethod
    def of(
        cls,
        node: OpNode,
        formats: tuple[Formatted, Formatted, Formatted],
        weight: Tensor,
        bias: Tensor | None,
        border: Border,
        windows: Windows,
    ) -> Self:
        """Build for a node of a convolution with as many groups as channels.

        Args:
            formats: of input, weight and result. weight: real ``[channels, 1, ...]``. bias: real ``[channels]``.
            windows: in the image with its border.

        Raises:
            UnsupportedOp: the sums are too wide.
        """
        where, attrs = node.where(), node.record.attrs
        x, y = activation_grid(*formats[0], where), produced_grid(*formats[2], where)
        taps, unit, w_scale, powers = weight_integers(*formats[1], weight, where)
        x_scale = formats[0][1].scale if x.scaled else None
        scale = _product(x_scale, w_scale)
        low = max(x.low, 0) if not_negative(node.inputs[0]) else x.low
        real = None if bias is None else _real(bias, scale, x.unit + unit, where)
        guard = _guard(attrs.get("accumulation", "auto"), x, where)
        reduction = _Terms(x, low, taps, powers, where).sum(real, guard)
        target = formats[2][1].scale if y.scaled else None
        relu, mode = attrs.get("activation") == "relu", attrs.get("rounding", "even")
        out = Output.of(y, scale, target, x.unit + unit - reduction.raised, reduction.bound, relu, mode, where)
        size = windows.image[0] - border.top - border.bottom, windows.image[1] - border.left - border.right
        places = Places.of(size, border, windows.kernel, windows.stride, windows.dilation)
        shape = node.record.output.shape[1:]
        come, give = Travel.of(node.inputs[0].record.output.shape[1:], 0), Travel.of(shape, 0)
        return cls(node.name, places, reduction, out, come, give, shape)

    def settled(self) -> Mapping[str, Json]:
        return {"accumulation": "exact" if self.reduction.alignment is None else f"aligned({self.reduction.raised})"}


def weight_integers(fmt: Format, params: QuantParams, weight: Tensor, where: str) -> Weights:
    """Return weights as integers ``[pixels of a window, channels]``, and what these weigh.

    Each weight is alone in its block, so that its exponent becomes part of the integer.
    """
    if not bool(torch.isfinite(weight).all()):
        raise UnsupportedOp(f"{where}: the weight holds infinity or NaN; allowed are finite numbers")
    grid, code, scale, _ = fmt.constants(weight, params, where)
    integers, unit = code.mantissa, grid.unit
    if code.exponent is not None:
        integers, unit = _shifted(integers, code.exponent, grid, where)
    return Weights(integers.flatten(1).T.contiguous(), unit, scale, grid.powers)


def _shifted(mantissa: Tensor, exponent: Tensor, grid: Grid, where: str) -> tuple[Tensor, int]:
    if exponent.shape != mantissa.shape:
        raise UnsupportedOp(
            f"{where}: weights of a depthwise convolution share exponents; allowed are blocks of channels"
        )
    used = exponent[mantissa != 0]
    least = int(used.min()) if used.numel() else grid.base
    above = (exponent - least).clamp(min=0)
    if grid.element_bits + int(above[mantissa != 0].max() if used.numel() else 0) > EXACT_BITS:
        raise UnsupportedOp(f"{where}: exponents of weights lie too far apart; use a smaller exponent window")
    return torch.where(mantissa == 0, 0, mantissa << above.clamp(max=EXACT_BITS)), grid.unit + least - grid.base


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return the product of two scales, of one number or one a channel."""
    if a is None or b is None:
        found = a if b is None else b
        return None if found is None else found.double().reshape(-1)
    return a.double().reshape(-1) * b.double().reshape(-1)


def _real(bias: Tensor, scale: Tensor | None, unit: int, where: str) -> Tensor:
    """Return the bias in units of the sums."""
    if not bool(torch.isfinite(bias).all()):
        raise UnsupportedOp(f"{where}: the bias holds infinity or NaN; allowed are finite numbers")
    return torch.ldexp(bias.double() / (1.0 if scale is None else scale), torch.tensor(-unit))


def _guard(text: str, x: Grid, where: str) -> int | None:
    """Return the guard bits of a sum as a node says it; ``auto`` is exact where exponents reach that far at most."""
    if text == "auto":
        return None if x.element_bits + x.span <= WIDEST or not x.block else GUARD
    guard = Accumulation.parse(text, where).guard
    if guard is not None and not x.block:
        raise UnsupportedOp(f"{where}: accumulation aligned(G) is for block formats; allowed here: exact")
    return guard


@dataclass(frozen=True, eq=False)
class _Terms:
    """Products of a sum, before it is known how they are summed; fields as those of :class:`Reduction`."""

    x: Grid
    low: int
    weight: Tensor
    powers: bool
    where: str

    def sum(self, bias: Tensor | None, guard: int | None) -> Reduction:
        """Return the sum with a bias in units of the products: exact, or aligned with so many guard bits."""
        if guard is not None:
            return self._aligned(bias, guard)
        if bias is not None and float(bias.abs().max()) >= 2.0**60:
            raise UnsupportedOp(f"{self.where}: the bias takes over 60 bits on the unit of the sums")
        return self._reduction(None if bias is None else whole(bias.round()), None, None)

    def _aligned(self, bias: Tensor | None, guard: int) -> Reduction:
        taps, block = len(self.weight), self.x.block
        if bias is None:
            return self._reduction(None, Alignment(self.x, taps, guard), None)
        part = max(taps * int(self.weight.abs().max()) * max(-self.low, self.x.high), 1 << BIAS_BITS)
        exponent = torch.frexp(bias.abs() / part)[1].clamp(min=0).to(torch.int64)
        if int(exponent.max()) >> self.x.exp_bits:
            raise UnsupportedOp(f"{self.where}: the bias lies beyond the exponents of the input; make it smaller")
        least = pad(exponent, (0, -len(exponent) % block)).unflatten(0, (-1, block)).amax(1)
        start = whole((bias * pow2(-exponent)).round())
        return self._reduction(start, Alignment(self.x, taps, guard, least), exponent)

    def _reduction(self, bias: Tensor | None, alignment: Alignment | None, own: Tensor | None) -> Reduction:
        return Reduction(
            self.x,
            self.low,
            len(self.weight),
            self.weight.shape[1],
            weight=self.weight,
            bias=bias,
            powers=self.powers,
            alignment=alignment,
            bias_exp=own,
            where=self.where,
        )
