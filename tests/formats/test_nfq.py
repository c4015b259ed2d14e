"""NormalFloat with quantized scales: laws, NF4 itself to the rounding of scales, shifts of most entropy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import parse
from mase.formats.nf import NormalFloat
from mase.formats.nfq import QuantizedNormalFloat
from mase.testing import FormatLaws


class TestNF4(FormatLaws):
    fmt = QuantizedNormalFloat()
    symmetric = False  # one more positive entry than negative ones
    scales = True


class TestNF3(FormatLaws):
    fmt = QuantizedNormalFloat(3, block=16)
    axis = 0
    symmetric = False
    scales = True


def drawn(rows: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed)) * 0.02


def test_it_is_nf4_but_for_a_step_of_scales() -> None:
    x = drawn()
    error = (QuantizedNormalFloat().quantize(x) - x).square().mean()
    assert error == pytest.approx(float((NormalFloat().quantize(x) - x).square().mean()), rel=0.02)


def test_scales_take_eight_bits_and_a_step_for_256() -> None:
    fmt = QuantizedNormalFloat()
    assert fmt.bits((128, 256)) == 4 + 8 / 64 + 32 / (256 * 64)
    assert QuantizedNormalFloat(shift=True).bits((128, 256)) == 4 + 16 / 64 + 32 / (256 * 64)
    code = fmt.encode(drawn())
    assert code.scale is not None
    assert int(code.scale.max()) in (254, 255)  # a step that was rounded up covers the greatest
    assert code.scale.shape == (64, 4)


def entropy(codes: Tensor) -> float:
    """Return the mean entropy of the codes of blocks of 64, bits."""
    counts = torch.stack([torch.bincount(block, minlength=16) for block in codes.reshape(-1, 64)]) / 64
    return float(torch.special.entr(counts).sum(1).mean() / torch.log(torch.tensor(2.0)))


def test_shifted_blocks_have_more_entropy() -> None:
    x = drawn() + 0.004 * torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    plain, shifted = parse("nfq4").encode(x), parse("nfq4s").encode(x)
    assert entropy(shifted.mantissa) > entropy(plain.mantissa) + 0.02


def test_a_block_off_centre_is_rounded_better_when_shifted() -> None:
    x = drawn() + 0.05
    errors = [float((parse(text).quantize(x) - x).square().mean()) for text in ("nfq4s", "nfq4")]
    assert errors[0] < 0.3 * errors[1]


def test_shifted_codes_decode_to_what_quantize_gives() -> None:
    x, fmt = drawn(), parse("nfq4b32s")
    params = fmt.calibrate(x)
    code = fmt.encode(x, params)
    assert torch.equal(fmt.decode(code, params).float(), fmt.quantize(x, params))
    low, high = fmt.limits(x, params)
    y = fmt.quantize(x, params)
    assert bool(((y >= low.float()) & (y <= high.float())).all())


def test_bad_input_is_one_line() -> None:
    with pytest.raises(FormatError, match=r"nfq: width is 1; allowed is 2\.\.8"):
        QuantizedNormalFloat(1)
    fmt = QuantizedNormalFloat()
    with pytest.raises(FormatError, match="nfq4: the parameters hold steps for 256 scales, the data 2048"):
        fmt.encode(drawn(512), fmt.calibrate(drawn(8)))
    with pytest.raises(FormatError, match="nfq4: decode needs the scales"):
        fmt.decode(fmt.encode(drawn()))
