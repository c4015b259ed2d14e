"""Block minifloat: laws and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.bm import BlockMinifloat
from mase.testing import FormatLaws


class TestEightBits(FormatLaws):
    fmt = BlockMinifloat(8, 4)
    scales = True


class TestSixBits(FormatLaws):
    fmt = BlockMinifloat(6, 2, block=8, exp_bits=4)
    axis = 0
    scales = True


class TestTile(FormatLaws):
    fmt = BlockMinifloat(4, 3, block=4, outer=(2,))
    scales = True


def test_top_exponent_follows_the_block_maximum() -> None:
    fmt = BlockMinifloat(6, 2, block=2)  # e2m3: greatest 7.5 * 2**(X - 2)
    for top in (0.01, 0.75, 3.0, 1000.0):
        x = torch.tensor([top, top / 3])
        code = fmt.encode(x)
        assert code.exponent is not None
        assert 2.0 ** int(code.exponent) <= top < 2.0 ** (int(code.exponent) + 1)
        assert abs(float(fmt.quantize(x)[0]) / top - 1) < 2**-3  # half a unit of 3 bits, or the end of the range


def test_maxima_below_one_keep_their_precision() -> None:
    x = 0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    y = BlockMinifloat(8, 4).quantize(x)
    assert float(10 * torch.log10(x.square().sum() / (x - y).square().sum())) > 30  # the published rule reaches 0.2 dB


def test_stored_bits_by_hand() -> None:
    assert BlockMinifloat(8, 4, 16).bits((64, 64)) == 8.5


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match=r"bm: exp is 4; allowed beside a sign in 4 bits is 1\.\.3"):
        BlockMinifloat(4, 4)
