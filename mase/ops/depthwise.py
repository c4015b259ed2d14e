"""Depthwise convolution: each channel is summed over its own windows, lane by lane (hw/reduce).

A convolution with as many groups as channels becomes this (mase/ops/conv.py): a unit of so many lanes, where the sum
over channels that other convolutions need would leave all lanes but one without work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.pad import Border
from mase.blocks.reduce import EXACT_BITS, Reduction
from mase.blocks.window import Windows
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.stream import Travel
from mase.errors import UnsupportedOp
from mase.formats import Format, QuantParams
from mase.formats.grid import Grid
from mase.formats.whole import whole
from mase.graph import Json, OpNode
from mase.ops.base import not_negative
from mase.ops.reducing import Places, Reducing

WIDEST = 36  # bits of an input with its exponent, so that sums have room
Formatted = tuple[Format, QuantParams]


class Depthwise(Reducing):
    """y[c] = act(bias[c] + sum over the pixels t of a window of x[t, c] w[t, c]), exact, one rounding."""

    @staticmethod
    def too_wide(grid: Grid) -> str:
        """Return why exponents of an input have no exact sum here; empty where they have."""
        if grid.element_bits + grid.span <= WIDEST:
            return ""
        return f"its input's exponents reach 2**{grid.span}; depthwise sums are exact: use a smaller exponent window"

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
            UnsupportedOp: the sums are too wide, or are to be aligned.
        """
        where, attrs = node.where(), node.record.attrs
        if (found := attrs.get("accumulation", "auto")) not in ("auto", "exact"):
            raise UnsupportedOp(f"{where}: accumulation {found!r} of a depthwise convolution; allowed: exact")
        x, y = activation_grid(*formats[0], where), produced_grid(*formats[2], where)
        taps, unit, w_scale = weight_integers(*formats[1], weight, where)
        x_scale = formats[0][1].scale if x.scaled else None
        scale = _product(x_scale, w_scale)
        start = None if bias is None else _start(bias, scale, x.unit + unit, where)
        low = max(x.low, 0) if not_negative(node.inputs[0]) else x.low
        reduction = Reduction(x, low, len(taps), len(weight), weight=taps, bias=start, where=where)
        target = formats[2][1].scale if y.scaled else None
        relu, mode = attrs.get("activation") == "relu", attrs.get("rounding", "even")
        out = Output.of(y, scale, target, x.unit + unit, reduction.bound, relu, mode, where)
        size = windows.image[0] - border.top - border.bottom, windows.image[1] - border.left - border.right
        places = Places.of(size, border, windows.kernel, windows.stride, windows.dilation)
        shape = node.record.output.shape[1:]
        come, give = Travel.of(node.inputs[0].record.output.shape[1:], 0), Travel.of(shape, 0)
        return cls(node.name, places, reduction, out, come, give, shape)

    def settled(self) -> Mapping[str, Json]:
        return {"accumulation": "exact"}


def weight_integers(fmt: Format, params: QuantParams, weight: Tensor, where: str) -> tuple[Tensor, int, Tensor | None]:
    """Return weights as integers ``[pixels of a window, channels]``, the exponent of their unit, and their real scale.

    Each weight is alone in its block, so that its exponent becomes part of the integer.
    """
    if not bool(torch.isfinite(weight).all()):
        raise UnsupportedOp(f"{where}: the weight holds infinity or NaN; allowed are finite numbers")
    grid, code, scale = fmt.constants(weight, params, where)
    integers, unit = code.mantissa, grid.unit
    if code.exponent is not None:
        integers, unit = _shifted(integers, code.exponent, grid, where)
    return integers.flatten(1).T.contiguous(), unit, scale


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


def _start(bias: Tensor, scale: Tensor | None, unit: int, where: str) -> Tensor:
    """Return the bias on the unit of the sums."""
    if not bool(torch.isfinite(bias).all()):
        raise UnsupportedOp(f"{where}: the bias holds infinity or NaN; allowed are finite numbers")
    real = bias.double() / (1.0 if scale is None else scale)
    found = torch.ldexp(real, torch.tensor(-unit)).round()
    if float(found.abs().max()) >= 2.0**60:
        raise UnsupportedOp(f"{where}: the bias takes over 60 bits on the unit of the sums")
    return whole(found)
