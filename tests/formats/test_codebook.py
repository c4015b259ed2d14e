"""Codebooks: laws and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import parse
from mase.formats.codebook import Codebook
from mase.testing import FormatLaws


class TestDefault(FormatLaws):
    fmt = Codebook()
    zero = False
    symmetric = False  # of a tie the lower entry


class TestOneSided(FormatLaws):
    fmt = Codebook((-0.5, 0.0, 0.125, 2.0), block=8)
    axis = 0
    symmetric = False
    idempotent = False  # a negative maximum shrinks to a quarter of the scale, which asks for a smaller one
    scales = True


class TestSmallScale(FormatLaws):
    fmt = Codebook((-1.0, 0.0, 1.0), block=16, scale_type="e4m3")
    symmetric = False


def test_by_hand() -> None:
    x = torch.tensor([4.0, -1.0, 0.3, 2.5])  # maximum 4 meets the greatest entry 1: scale 4
    code = Codebook((-1.0, -0.25, 0.25, 1.0)).encode(x)
    assert code.mantissa.tolist() == [3, 1, 2, 2]  # 2.5 / 4 is the tie between 0.25 and 1
    assert Codebook().quantize(x).tolist() == [4.0, -1.0, 1.0, 1.0]


def test_entries_are_float32_and_print_short() -> None:
    assert str(Codebook((-1.0, 0.1, 0.3))) == "codebook[-1.0,0.1,0.3]"
    assert parse("codebook[-1,0.1,0.3]") == Codebook((-1.0, 0.1, 0.3))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ((1.0,), "codebook: number of entries is 1; allowed is 2..256"),
        ((1.0, 1.0), r"codebook: entries are \(1.0, 1.0\); allowed are finite values, each above"),
        ((0.0, float("nan")), "codebook: entries are"),
    ],
)
def test_impossible_tables_say_what_is_allowed(entries: tuple[float, ...], text: str) -> None:
    with pytest.raises(FormatError, match=text):
        Codebook(entries)


def test_a_text_without_numbers_is_refused() -> None:
    with pytest.raises(FormatError, match="found 'a'; a number is needed"):
        parse("codebook[a,b]")
