"""Quantisers of ONNX and QONNX as number formats, where a format says exactly the same; else a clear refusal.

Source: QONNX general operators IntQuant, BipolarQuant and Trunc; ONNX QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from mase.errors import FormatError
from mase.formats import Format, QuantParams
from mase.formats.binary import Binary
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.formats.rounding import Rounding
from mase.formats.scales import round_scale
from mase.frontend.onnx_builder import Builder, Constant, Step, Value

MODES: Mapping[str, Rounding] = {
    "ROUND": "even",
    "HALF_EVEN": "even",
    "HALF_UP": "half_away",  # QONNX rounds the magnitude
    "FLOOR": "floor",
    "CEIL": "ceil",
    "DOWN": "zero",
}  # QONNX's word -> ours; its UP and HALF_DOWN have no counterpart
INTEGERS = {"int2": (2, True), "uint2": (2, False)}  # dtype -> bits, signed
INTEGERS |= {"int4": (4, True), "uint4": (4, False), "int8": (8, True), "uint8": (8, False)}
INTEGERS |= {"int16": (16, True), "uint16": (16, False)}


@dataclass(frozen=True)
class Grid:
    """What a quantiser says: codes of ``bits``, value = (code - zero) * scale; bipolar ones are -1 and 1."""

    bits: int
    signed: bool
    narrow: bool
    scale: Tensor
    zero: Tensor
    mode: Rounding = "even"
    bipolar: bool = False
    early: bool = False  # the zero point is added before rounding


def format_of(grid: Grid, rank: int, step: Step) -> tuple[Format, QuantParams]:
    """Return the format that has the quantiser's codes.

    Args:
        rank: axes of the quantised tensor.

    Raises:
        UnsupportedOp: there is none.
    """
    scale, axis = _per(grid.scale.double(), rank, step)
    zero, other = _per(grid.zero.double(), rank, step)
    if zero.ndim and scale.ndim and (zero.shape != scale.shape or axis != other):
        raise step.refuse(
            "has a scale and a zero point that do not match; allowed are equally many of each, along the same axis"
        )
    if zero.ndim and not scale.ndim:
        scale, axis = scale.expand_as(zero).contiguous(), other
    if not bool((scale > 0).all()) or not bool(torch.isfinite(scale).all()):
        raise step.refuse("has a scale that is not positive; allowed are finite positive scales")
    if bool((zero != zero.round()).any()):
        raise step.refuse("has a zero point that is not a whole number")
    if grid.narrow and not grid.signed:
        raise step.refuse("has unsigned narrow codes; allowed are signed narrow codes, or all unsigned codes")
    try:
        return _format(grid, scale, zero.expand_as(scale).to(torch.int64), axis)
    except FormatError as error:
        raise step.refuse(f"has no format that is exactly the same: {error}") from None


def _format(grid: Grid, scale: Tensor, zero: Tensor, axis: int) -> tuple[Format, QuantParams]:
    channel, unit = scale.ndim > 0, math.frexp(float(scale.reshape(-1)[0]))
    symmetric = not bool(zero.any())
    powers = _powers(scale)
    if grid.bipolar:
        return Binary("channel" if channel else "tensor"), QuantParams(scale, axis=axis)
    if symmetric and powers and not channel and not (grid.signed and grid.narrow):
        return Fixed(grid.bits, 1 - unit[1], grid.signed, grid.mode), QuantParams()
    fields: dict[str, Any] = {"width": grid.bits, "channel": channel, "rounding": grid.mode, "power": powers}
    if not powers and not torch.equal(round_scale(scale, "short"), scale):
        fields["scale_type"] = "fp32"
    if symmetric and grid.signed:
        return Int(full=not grid.narrow, **fields), QuantParams(scale, axis=axis)
    if grid.narrow:
        raise FormatError("narrow codes with a zero point")
    if grid.early and not _commutes(grid, zero):
        shift = 0 if grid.signed else 1 << grid.bits - 1  # codes that are rounded together with the zero point
        return Int(zero="int", compat="qera", **fields), QuantParams(scale, zero - shift, axis=axis)
    shift = 1 << grid.bits - 1 if grid.signed else 0  # codes with a zero point start at 0
    return Int(zero="int", **fields), QuantParams(scale, zero + shift, axis=axis)


def _commutes(grid: Grid, zero: Tensor) -> bool:
    """Tell whether rounding x / scale + zero is the same as rounding x / scale and adding the zero point."""
    if grid.mode == "even":
        return not bool((zero % 2).any())
    return grid.mode in ("floor", "ceil", "half_up")


def _powers(scale: Tensor) -> bool:
    """Tell whether all scales are powers of two."""
    return bool((torch.frexp(scale.double()).mantissa == 0.5).all())


def _per(shared: Tensor, rank: int, step: Step) -> tuple[Tensor, int]:
    """Return a scale as one number or one a channel, and the channel axis."""
    if shared.numel() == 1:
        return shared.reshape(()), -1
    long = [axis for axis, size in enumerate(shared.shape) if size > 1]
    if len(long) > 1:
        raise step.refuse(f"scale has shape {tuple(shared.shape)}; allowed is one number, or one a channel")
    return shared.reshape(-1), long[0] - shared.ndim + rank


def _check_fits(b: Builder, step: Step, value: Value, scale: Tensor, zero: Tensor) -> None:
    """Refuse scales and zero points that do not fit a value, or that differ between the samples of a batch."""
    shape = b.shape(value)
    for name, shared in (("scale", scale), ("zero point", zero)):
        if shared.numel() == 0:
            raise step.refuse(f"{name} has no elements; allowed is one number, or one a channel")
        aligned = [1] * (len(shape) - shared.ndim) + list(shared.shape)
        if isinstance(value, fx.Node) and shared.numel() > 1 and aligned[0] > 1:
            raise step.refuse(f"has a {name} for each sample of the batch; allowed is one number, or one a channel")
        fits = [a in (1, n) for a, n in zip(aligned, shape, strict=False)]
        if shared.numel() > 1 and (len(aligned) != len(shape) or not all(fits)):
            raise step.refuse(f"{name} has shape {tuple(shared.shape)} on a value of {shape}; these do not fit")
    if not bool((scale > 0).all()) or not bool(torch.isfinite(scale).all()):
        raise step.refuse("has a scale that is not positive; allowed are finite positive scales")


def _whole(step: Step, name: str, value: Tensor) -> int:
    """Return a number of bits."""
    if value.numel() != 1 or not 1 <= float(value) <= 64 or float(value) != int(value):
        raise step.refuse(f"{name} {value.reshape(-1).tolist()[:4]}; allowed is one whole number from 1 to 64")
    return int(value)


def _quantised(b: Builder, step: Step, value: Value, grid: Grid) -> Value:
    """Return a value in the format of a quantiser."""
    _check_fits(b, step, value, grid.scale, grid.zero)
    if isinstance(value, fx.Node):
        return b.requantize(step, value, *format_of(grid, len(b.shape(value)), step))
    fmt, params = format_of(_narrowed(grid, value.real()), value.tensor.ndim, step)
    return Constant(value.real(), value.name if value.format is None else "", fmt, params)


def _narrowed(grid: Grid, real: Tensor) -> Grid:
    """Leave the most negative code out where no element has it: symmetric codes are what hardware takes."""
    if not grid.signed or grid.narrow or bool(grid.zero.any()) or (grid.scale.numel() == 1 and _powers(grid.scale)):
        return grid
    return replace(grid, narrow=float((real.double() / grid.scale.double()).min()) > 0.5 - (1 << grid.bits - 1))


def _quant(b: Builder, step: Step) -> Value:
    """Return Quant(x, scale, zero point, bits)."""
    scale, zero, bits = (b.constant(step, index).real() for index in (1, 2, 3))
    width = _whole(step, "bits", bits)
    word = str(step.attrs.get("rounding_mode", "ROUND")).upper()
    if word not in MODES:
        raise step.refuse(f"rounding_mode {word}; allowed: {', '.join(MODES)}")
    grid = Grid(width, bool(step.attrs.get("signed", 1)), bool(step.attrs.get("narrow", 0)), scale, zero, MODES[word])
    if not grid.signed and bool(zero.any()):  # below code 0 all is clipped; above it these round alike
        alike: Mapping[Rounding, Rounding] = {"zero": "floor", "half_away": "half_up"}
        grid = replace(grid, mode=alike.get(grid.mode, grid.mode))
    grid = replace(grid, early=True)
    return _quantised(b, step, b.value(step, 0), grid)


def _bipolar(b: Builder, step: Step) -> Value:
    scale = b.constant(step, 1).real()
    return _quantised(b, step, b.value(step, 0), Grid(1, True, False, scale, torch.zeros(()), bipolar=True))


def _trunc(b: Builder, step: Step) -> Value:
    """Return Trunc(x, scale, zero point, bits of x, bits), or in version 2 (..., bits of x, scale of y, bits)."""
    x, word = b.node(step, 0), str(step.attrs.get("rounding_mode", "FLOOR")).upper()
    scale, zero, before = (b.constant(step, index).real() for index in (1, 2, 3))
    found = b.quant_of(x)
    held = None if found is None else 2.0 ** -found[0].frac if isinstance(found[0], Fixed) else found[1].scale
    single = held is not None and torch.as_tensor(held).numel() == scale.numel() == 1
    if not single or not bool(held == scale.double()) or bool(zero.any()) or word not in MODES:
        raise step.refuse(
            "is allowed only behind a quantiser of the same scale that has no zero point and rounds by ROUND or FLOOR"
        )
    assert found is not None
    signed, narrow = found[0].code_range()[0] < 0, bool(step.attrs.get("narrow", 0))
    if len(step.inputs) > 5:
        after, bits = b.constant(step, 4).real(), b.constant(step, 5).real()
        signed = bool(step.attrs.get("signed", 1))
    else:  # version 1 keeps the scale: values shrink
        after, bits = scale, b.constant(step, 4).real()
        lost = _whole(step, "bits of the input", before) - _whole(step, "bits", bits)
        x = b.emit(step, "mul", [x], {"value": 2.0**-lost})
    return _quantised(b, step, x, Grid(_whole(step, "bits", bits), signed, narrow, after, torch.zeros(()), MODES[word]))


def _along(shared: Tensor, step: Step, rank: int) -> Tensor:
    """Return a scale or zero point with its channels on the axis that the node names."""
    axis = step.attrs.get("axis", 1)
    if shared.numel() == 1 or shared.ndim != 1:
        return shared
    if not -rank <= axis < rank:
        raise step.refuse(f"axis {axis}; allowed are {-rank} to {rank - 1}")
    axis %= rank
    return shared.reshape([-1 if i == axis else 1 for i in range(rank)])


def _parameters(b: Builder, step: Step, value: Value) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of QuantizeLinear or DequantizeLinear."""
    rank = len(b.shape(value))
    if step.attrs.get("block_size", 0):
        raise step.refuse(f"block_size {step.attrs['block_size']}; allowed is one scale a tensor or a channel")
    scale = b.constant(step, 1).real()
    zero = b.constant(step, 2).real() if b.given(step, 2) else torch.zeros(())
    scale, zero = _along(scale, step, rank), _along(zero, step, rank)
    _check_fits(b, step, value, scale, zero)
    return scale, zero


def dtype_name(number: int) -> str:
    """Return the name of ONNX's type of a number; 0 is QuantizeLinear's default."""
    import onnx

    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(number or onnx.TensorProto.UINT8).name)
    except KeyError:
        return f"type {number}"


def _quantize_linear(b: Builder, step: Step) -> Value:
    x = b.value(step, 0)
    scale, zero = _parameters(b, step, x)
    named = step.attrs.get("output_dtype", 0)
    dtype = b.dtypes.get(step.inputs[2], "") if b.given(step, 2) else dtype_name(named)
    if named and dtype_name(named) != dtype:
        raise step.refuse(f"output_dtype is {dtype_name(named)}; the zero point's is {dtype}")
    if dtype not in INTEGERS:
        raise step.refuse(f"quantises to {dtype}; allowed: {', '.join(INTEGERS)}")
    bits, signed = INTEGERS[dtype]
    if isinstance(x, Constant):
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        b.dtypes[step.outputs[0]] = dtype
        codes = (x.real() / scale).round() + zero.to(x.tensor.dtype)
        return Constant(codes.clamp(low, high).to(torch.int64), x.name)
    b.codes[step.outputs[0]] = (scale, zero)
    return b.requantize(step, x, *format_of(Grid(bits, signed, False, scale, zero), len(b.shape(x)), step))


def _dequantize_linear(b: Builder, step: Step) -> Value:
    value = b.value(step, 0)
    scale, zero = _parameters(b, step, value)
    if isinstance(value, Constant):
        real = (value.tensor.to(torch.int64) - zero.to(torch.int64)) * scale
        dtype = b.dtypes.get(step.inputs[0], "")
        if dtype not in INTEGERS:
            if dtype != "int32":
                raise step.refuse(f"holds {dtype}; allowed: int32, {', '.join(INTEGERS)}")
            return Constant(real)  # a bias, on the grid of the sums: it needs no format of its own
        bits, signed = INTEGERS[dtype]
        fmt, params = format_of(_narrowed(Grid(bits, signed, False, scale, zero), real), real.ndim, step)
        return Constant(real, value.name, fmt, params)
    given = b.codes.get(step.inputs[0])
    if given is None or not torch.equal(given[0], scale) or not torch.equal(given[1].double(), zero.double()):
        raise step.refuse("is not the inverse of a QuantizeLinear before it: scale or zero point differ")
    return value


QONNX: dict[str, Callable[[Builder, Step], Value]] = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
}
QUANTISERS: dict[str, Callable[[Builder, Step], Value]] = {
    **QONNX,
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
}
