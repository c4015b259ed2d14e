"""NormalFloat: laws, and its table against the definition."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.nf import PUBLISHED, NormalFloat, normal_table
from mase.testing import FormatLaws


class TestNF4(FormatLaws):
    fmt = NormalFloat()
    symmetric = False  # one more positive entry than negative ones
    scales = True


class TestNF3(FormatLaws):
    fmt = NormalFloat(3, block=16)
    axis = 0
    symmetric = False
    scales = True


@pytest.mark.parametrize("width", sorted(PUBLISHED))
def test_the_published_table_is_the_definition_to_float32_rounding(width: int) -> None:
    published, computed = torch.tensor(PUBLISHED[width]), torch.tensor(normal_table(width))
    torch.testing.assert_close(published, computed, rtol=0, atol=2.0**-22)  # theirs was computed in float32


@pytest.mark.parametrize("width", range(2, 9))
def test_tables_rise_from_minus_one_over_zero_to_one(width: int) -> None:
    table = NormalFloat(width).table
    assert len(table) == 1 << width
    assert list(table) == sorted(set(table))
    assert (table[0], table[(1 << width - 1) - 1], table[-1]) == (-1.0, 0.0, 1.0)


def test_stored_bits_by_hand() -> None:
    assert NormalFloat().bits((64, 64)) == 4.5
    assert NormalFloat(4, 32, "fp16").bits((64, 64)) == 4.5


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match=r"nf: width is 1; allowed is 2\.\.8"):
        NormalFloat(1)
