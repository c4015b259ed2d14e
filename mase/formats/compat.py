"""What published tools do, defects included, to reproduce their results; the specification is the default.

Facts about the tools, measured on golden vectors (``tests/golden/formats``): microxcaling, Brevitas, MASE and
llm-mixed-q take exponents from a float32 logarithm, one too high for most numbers just below a power of two; torchao
divides by at least 2**-126, or by 1 where the scale is 2**-127 under ``rceil``; QERA drops blocks whose maximum is
a float32 subnormal; MASE and llm-mixed-q add 1e-9 in places, keep values up to 1e-8 as they are, and lose carries.
The tools compute in float32, and so do the functions here. What MASE does is reproduced in values, without codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import pow2
from mase.formats.whole import whole

EPS = 1e-9  # what MASE adds to magnitudes
TINY_NORMAL = -126  # exponent of the least normal float32
BEYOND = 128.0  # exponent above the greatest float32
FLOAT_EPS = 2.0**-23  # least scale of torchao
BREVITAS_LEAST = 1e-10  # least threshold of Brevitas


def log2_exponent(top: Tensor, up: bool = False) -> Tensor:
    """Return floor (or ceiling) of the float32 logarithm, as int64, of float64 magnitudes.

    Of what is zero in float32 as of 2**-126; of what is infinite there as of 2**128, which is above every window.
    """
    top = top.to(torch.float32)
    log = torch.log2(torch.where(top == 0, 2.0**TINY_NORMAL, top)).clamp(max=BEYOND)
    return whole(log.ceil() if up else log.floor())


def microxcaling_digits(v: Tensor, rounding: str) -> Tensor:
    """Return float64 ``v`` rounded to integers as microxcaling does: adding a half in float32, which itself rounds."""
    size = v.abs().to(torch.float32)
    if rounding == "zero":
        digits = size.floor()
    else:
        tie = ((size - 0.5) % 2 == 0) if rounding == "even" else torch.zeros_like(size, dtype=torch.bool)
        digits = (size + 0.5).floor() - tie.to(size.dtype)
    return torch.copysign(digits.to(torch.float64), v)


def microxcaling_element(v: Tensor, man: int, least_exponent: int, top: float, rounding: str) -> Tensor:
    """Return float64 elements of a minifloat as microxcaling rounds scaled values."""
    private = log2_exponent(v.abs()).clamp_(min=least_exponent)
    digits = microxcaling_digits(v * pow2(man - private), rounding)
    return (digits * pow2(private - man)).clamp_(-top, top)


def torchao_affine(low: Tensor, high: Tensor, least: int, most: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point that torchao chooses for data from ``low`` <= 0 to ``high`` >= 0, in float32."""
    low, high = low.to(torch.float32), high.to(torch.float32)
    scale = _usable(((high - low) / (most - least)).clamp(min=FLOAT_EPS), "torchao")
    return scale.to(torch.float64), whole((least - (low / scale).round()).clamp(least, most))


def torchao_symmetric(low: Tensor, high: Tensor, least: int, most: int, clips: bool) -> Tensor:
    """Return the scale that torchao chooses, its mapping ``symmetric`` (``clips``) or ``symmetric_no_clipping_err``."""
    low, high = low.clamp(max=0.0).to(torch.float32), high.clamp(min=0.0).to(torch.float32)
    scale = torch.maximum(-low, high) / ((most - least) / 2) if clips else torch.maximum(low / least, high / most)
    return _usable(scale.clamp(min=FLOAT_EPS), "torchao").to(torch.float64)


def torchao_quotient(x: Tensor, scale: Tensor) -> Tensor:
    """Return float64 x / scale as torchao computes it: times the reciprocal, in float32."""
    return (x.to(torch.float32) * (1.0 / scale.to(torch.float32))).to(torch.float64)


def qera_affine(low: Tensor, high: Tensor, least: int, most: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point that QERA takes for a range given by the caller, in float32."""
    low, high = low.to(torch.float32), high.to(torch.float32)
    scale, zero = (high - low) / (most - least), (high * least - low * most) / (high - low)
    return _usable(torch.where(torch.isfinite(zero), scale, torch.nan), "qera").to(torch.float64), whole(zero.round())


def _usable(scale: Tensor, tool: str) -> Tensor:
    """Return scales, float32, that numbers can be divided by.

    Raises:
        FormatError: the range of the data is empty, or too small or too large for float32, in which the tool computes.
    """
    lost = scale[~((scale > 0) & torch.isfinite(scale))]
    if lost.numel():
        raise FormatError(
            f"{tool}: the range of the data gives the scale {float(lost[0])} in float32, in which the tool computes; "
            "allowed is a finite scale above 0"
        )
    return scale


def torchao_scaled(blocks: Tensor, exponent: Tensor, rule: str) -> Tensor:
    """Return float64 blocks divided by their scales 2**exponent as torchao does."""
    divisor = torch.where(exponent == -127, 0, exponent) if rule == "rceil" else exponent.clamp(min=TINY_NORMAL)
    return blocks * pow2(-divisor).unsqueeze(-1)


def _two_to(exponent: Tensor) -> Tensor:
    return torch.pow(torch.tensor(2.0), exponent)


def _sign(x: Tensor) -> Tensor:
    return torch.sign(x + EPS)


def _tiny_kept(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x.abs() <= 1e-8, x, y)


def _maxima(blocks: Tensor) -> Tensor:
    """Return each block's greatest magnitude; of a zero block that of the least other block, or 1."""
    top = blocks.abs().amax(-1)
    positive = top[top > 0]
    return torch.where(top == 0, positive.min() if positive.numel() else torch.tensor(1.0), top)


def mase_bfp(blocks: Tensor, width: int, exp_bits: int) -> Tensor:
    """Return float32 blocks as ``block_fp_quantizer`` of MASE and llm-mixed-q gives them."""
    bias = (1 << exp_bits - 1) - 1
    exponent = torch.ceil(torch.log2(_maxima(blocks))).clamp_(-bias, (1 << exp_bits) - 1 - bias).unsqueeze(-1)
    shift, most = 1 << width - 1, (1 << width - 1) - 1
    digits = ((blocks.abs() + EPS) / _two_to(exponent) * shift).round().clamp(0, most)
    return _tiny_kept(blocks, _sign(blocks) * _two_to(exponent) * (digits / shift))


def mase_minifloat(x: Tensor, exp: int, man: int, bias: Tensor) -> Tensor:
    """Return float32 ``x`` as ``minifloat_ieee_quantizer`` gives it; ``bias`` broadcasts."""
    exponent = torch.floor(torch.log2(x.abs() + EPS))
    exponent = torch.minimum(torch.maximum(exponent, -bias), (1 << exp) - 1 - bias)
    digits, steps = x.abs() / _two_to(exponent), 1 << man
    normal = ((digits - 1) * steps).round().clamp(0, steps - 1) / steps + 1
    subnormal = (digits / 2 * steps).round().clamp(0, steps - 1) / steps * 2
    return _tiny_kept(x, _sign(x) * _two_to(exponent) * torch.where(exponent > -bias, normal, subnormal))


def mase_block_minifloat(blocks: Tensor, exp: int, man: int, bias_bits: int) -> Tensor:
    """Return float32 blocks as ``block_minifloat_quantizer`` gives them; maxima below 1 are lost."""
    bias = torch.floor(torch.log2(_maxima(blocks))).clamp(0, (1 << bias_bits) - 1).unsqueeze(-1)
    return mase_minifloat(blocks, exp, man, bias)


def mase_log(x: Tensor, exp: int, bias: Tensor) -> Tensor:
    """Return float32 ``x`` as ``log_quantizer`` gives it; ``bias`` broadcasts."""
    least = 0.1 * _two_to(-bias)
    exponent = torch.log2(x.abs() + least).round()
    exponent = torch.minimum(torch.maximum(exponent, -bias), (1 << exp) - 1 - bias)
    return torch.sign(x + least) * _two_to(exponent)


def mase_block_log(blocks: Tensor, exp: int, bias_bits: int) -> Tensor:
    """Return float32 blocks as ``block_log_quantizer`` gives them."""
    bias = ((1 << exp) - 1 - torch.ceil(torch.log2(_maxima(blocks)))).clamp(0, (1 << bias_bits) - 1)
    return mase_log(blocks, exp, bias.unsqueeze(-1))


def mase_mxint(blocks: Tensor, width: int) -> Tensor:
    """Return float32 blocks as ``mxint_quantizer`` gives them: ceiling exponent, two's complement."""
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True))).clamp(-126, 127)
    shift = 1 << width - 1
    return (blocks / _two_to(exponent) * shift).round().clamp(-shift, shift - 1) / shift * _two_to(exponent)
