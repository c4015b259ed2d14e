"""Block logarithm: laws and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.bl import BlockLog
from mase.testing import FormatLaws


class TestFourBits(FormatLaws):
    fmt = BlockLog(4)
    zero = False
    symmetric = False
    nearest = False


class TestEightBits(FormatLaws):
    fmt = BlockLog(8, block=8)
    axis = 0
    zero = False
    symmetric = False
    nearest = False


class TestWindow(FormatLaws):
    fmt = BlockLog(3, block=4, exp_bits=3)
    zero = False
    symmetric = False
    nearest = False


def test_power_of_two_commutes_but_for_zero_blocks() -> None:
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    fmt = BlockLog(4)
    assert torch.equal(fmt.quantize(x * 2.0**9), fmt.quantize(x) * 2.0**9)


def test_block_by_hand() -> None:  # maximum 5: X = 3, numbers 8 .. 8 / 2**7
    code = BlockLog(4, 4).encode(torch.tensor([5.0, -2.0, 0.06, 0.0]))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([3], [6, 8 + 5, 0, 0])
    assert BlockLog(4, 4).decode(code).tolist() == [4.0, -2.0, 0.0625, 0.0625]


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match=r"bl: width is 10; allowed is 2\.\.9"):
        BlockLog(10)
