"""Fixed point: laws for every rounding and overflow, and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import QuantParams
from mase.formats.fixed import Fixed
from mase.testing import FormatLaws


class TestSigned(FormatLaws):
    fmt = Fixed(8, 4)
    symmetric = False  # one more code below zero


class TestUnsigned(FormatLaws):
    fmt = Fixed(6, 3, signed=False)
    symmetric = False


class TestNegativeFraction(FormatLaws):
    fmt = Fixed(5, -3)
    symmetric = False


class TestFractionAboveWidth(FormatLaws):
    fmt = Fixed(4, 9)
    symmetric = False


class TestOneBit(FormatLaws):
    fmt = Fixed(1, 0, signed=False)
    symmetric = False


class TestWidest(FormatLaws):
    fmt = Fixed(32, 20)
    symmetric = False
    nearest = False  # too many codes to try; the narrower ones stand for it


class TestHalfUp(FormatLaws):
    fmt = Fixed(7, 2, rounding="half_up")
    symmetric = False


class TestHalfAway(FormatLaws):
    fmt = Fixed(7, 2, rounding="half_away")
    symmetric = False


class TestFloor(FormatLaws):
    fmt = Fixed(7, 2, rounding="floor")
    symmetric = False
    nearest = False


class TestTowardZero(FormatLaws):
    fmt = Fixed(7, 2, rounding="zero")
    symmetric = False
    nearest = False


class TestStochastic(FormatLaws):
    fmt = Fixed(8, 3, rounding="stochastic")
    symmetric = False
    nearest = False


class TestWrap(FormatLaws):
    fmt = Fixed(8, 4, overflow="wrap")
    symmetric = False
    nearest = False
    saturates = False


@pytest.mark.parametrize(
    ("rounding", "codes"),
    [
        ("even", [0, 2, 2, 0, -2, -2, 1]),
        ("half_up", [1, 2, 3, 0, -1, -2, 1]),
        ("half_away", [1, 2, 3, -1, -2, -3, 1]),
        ("floor", [0, 1, 2, -1, -2, -3, 0]),
        ("ceil", [1, 2, 3, 0, -1, -2, 1]),
        ("zero", [0, 1, 2, 0, -1, -2, 0]),
    ],
)
def test_ties_by_hand(rounding: str, codes: list[int]) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.75])
    assert Fixed(8, 0, rounding=rounding).encode(x).mantissa.tolist() == codes  # type: ignore[arg-type]


def test_half_up_just_below_a_half_stays_down() -> None:
    below = torch.tensor(0.5, dtype=torch.float64).nextafter(torch.tensor(0.0, dtype=torch.float64))
    assert Fixed(8, 0, rounding="half_up").encode(below).mantissa == 0  # below + 0.5 rounds to 1 in float64


def test_wrap_counts_modulo_the_range() -> None:
    x = torch.tensor([127.0, 128.0, 255.0, 256.0, -128.0, -129.0, 1e9])
    assert Fixed(8, 0, overflow="wrap").encode(x).mantissa.tolist() == [127, -128, -1, 0, -128, 127, 0]
    with pytest.raises(FormatError, match="infinity, which cannot wrap"):
        Fixed(8, 0, overflow="wrap").encode(torch.tensor(torch.inf))


def test_stochastic_rounding_is_unbiased_and_seeded() -> None:
    fmt = Fixed(8, 0, rounding="stochastic")
    x = torch.full((20_000,), 2.25)
    y = fmt.quantize(x, QuantParams(seed=1))
    assert set(y.tolist()) == {2.0, 3.0}
    assert abs(float(y.mean()) - 2.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5  # four standard deviations
    assert torch.equal(y, fmt.quantize(x, QuantParams(seed=1)))
    assert not torch.equal(y, fmt.quantize(x, QuantParams(seed=2)))


def test_32_bits_saturate_at_their_ends() -> None:
    code = Fixed(32, 0).encode(torch.tensor([1e30, -1e30, 2147483646.0], dtype=torch.float64)).mantissa
    assert code.tolist() == [2**31 - 1, -(2**31), 2147483646]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"width": 0}, "fixed: width is 0; allowed is 1..32"),
        ({"width": 33}, "fixed: width is 33; allowed is 1..32"),
        ({"width": True}, "fixed: width is True; allowed is 1..32"),
        ({"frac": 65}, "fixed: frac is 65; allowed is -64..64"),
        ({"rounding": "up"}, "fixed: rounding is 'up'; allowed is 'even', 'half_up'"),
        ({"overflow": "modulo"}, "fixed: overflow is 'modulo'; allowed is 'saturate', 'wrap'"),
    ],
)
def test_impossible_fields_say_what_is_allowed(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError, match=text.replace(".", r"\.")):
        Fixed(**fields)  # type: ignore[arg-type]
