"""Fixed point: laws for every rounding and overflow, and values by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import QuantParams, parse
from mase.formats.fixed import Fixed
from mase.formats.rounding import Rounding
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


def counted(x: float, fmt: Fixed) -> int:
    """Return the code of a float64 by Python's integers and fractions."""
    code, low = round(Fraction(x) * Fraction(2) ** fmt.frac), fmt.code_range()[0]  # ties to even
    return (code - low) % (1 << fmt.width) + low


@pytest.mark.parametrize(
    "text", ["fixed8.0_wrap", "fixed8.4_wrap", "ufixed5.-3_wrap", "fixed32.64_wrap", "fixed32.-64_wrap"]
)
def test_wrap_is_exact_at_every_magnitude(text: str) -> None:
    fmt, draw = parse(text), Random(2)
    assert isinstance(fmt, Fixed)
    values = [math.ldexp(draw.choice((-1, 1)) * draw.randint(1, 2**53), draw.randint(-1100, 970)) for _ in range(400)]
    values += [math.ldexp(draw.choice((-1, 1)) * draw.randint(1, 2**53), draw.randint(-130, 60)) for _ in range(400)]
    values += [s * 2.0**e for s in (-1, 1) for e in (53, 56, 60, 63, 64, 1023, -1074)] + [2.0**60 + 2.0**40]
    x = torch.tensor(values, dtype=torch.float64)
    for data in (x, x[x.abs() < 2.0**127].to(torch.float32)):
        expected = [counted(value, fmt) for value in data.tolist()]
        assert fmt.encode(data).mantissa.tolist() == expected
        assert torch.equal(fmt.quantize(data), (torch.tensor(expected).double() * 2.0**-fmt.frac).to(data.dtype))


@pytest.mark.parametrize(("rounding", "codes"), [("floor", [-1, 0]), ("ceil", [0, 1]), ("even", [0, 0])])
def test_the_least_floats_round_in_their_direction(rounding: Rounding, codes: list[int]) -> None:
    x = torch.tensor([-5e-324, 5e-324], dtype=torch.float64)  # times 2**-64 they would be 0
    assert Fixed(8, -64, rounding=rounding).encode(x).mantissa.tolist() == codes


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
