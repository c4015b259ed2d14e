"""Real functions to 48 bits, rounded to odd: the same on every machine, and never on the wrong side of a tie."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest

from mase.ops import exact
from mase.ops.activation import FUNCTIONS

ATTRS = {"prelu": {"weight": 0.25}, "power": {"exponent": 2.5}, "clamp": {"low": -0.7, "high": 3.0}}
POINTS = (
    -300.0,
    -20.5,
    -8.0,
    -3.0,
    -1.0,
    -(2.0**-30),
    0.0,
    2.0**-40,
    0.25,
    1.0,
    1.0 + 2.0**-40,
    3.0,
    6.0,
    17.25,
    300.0,
)


def test_every_function_has_an_exact_twin() -> None:
    assert set(FUNCTIONS) == exact.NAMES


@pytest.mark.parametrize("function", FUNCTIONS)
def test_48_bits_are_those_of_a_thousand(function: str) -> None:
    attrs = ATTRS.get(function, {})
    xs = [x for x in POINTS if not exact.undefined(function, attrs, x)]
    m = mpmath.mp.clone()
    m.prec = 1600
    for x, found in zip(xs, exact.values(function, attrs, xs), strict=True):
        if function in exact.RATIONAL:
            real = exact.RATIONAL[function](Fraction(x), attrs)
        else:
            value = exact.REAL[function](m, m.mpf(x), attrs)
            real = Fraction(int(value.man)) * Fraction(2) ** int(value.exp) * (-1 if value < 0 else 1)
        if abs(real) > 2**exact.FARTHEST or 0 < abs(real) < Fraction(1, 2**exact.FARTHEST):
            assert abs(math.frexp(found)[1]) >= exact.FARTHEST - 1
            continue
        assert (found > 0, found < 0) == (real > 0, real < 0)
        if real:
            assert abs(Fraction(found) / real - 1) < Fraction(1, 2**47), (x, found)
        digits = abs(math.frexp(found)[0]) * 2**exact.BITS
        assert digits.is_integer()
        if digits % 2 == 0:  # nothing was cut off
            assert abs(Fraction(found) - real) <= abs(real) / 2**700


@pytest.mark.parametrize(
    ("value", "above"),
    [(Fraction(1, 2) + Fraction(1, 2**70), True), (Fraction(1, 2) - Fraction(1, 2**70), False), (Fraction(1, 2), None)],
)
def test_a_value_beside_a_tie_stays_beside_it(value: Fraction, above: bool | None) -> None:
    """Float64 cannot tell the three apart; rounding to odd can."""
    found = exact._of_fraction(value)
    assert float(value) == 0.5
    assert (found > 0.5, found == 0.5) == (above is True, above is None)


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [("exp", 0.0, 1.0), ("sqrt", 2.25, 1.5), ("log", 1.0, 0.0), ("sigmoid", 0.0, 0.5), ("rsqrt", 0.25, 2.0),
     ("cos", 0.0, 1.0), ("gelu", 0.0, 0.0), ("softplus", 40.0, 40.0), ("elu", 2.5, 2.5), ("silu", -0.0, 0.0)],
)  # fmt: skip
def test_values_of_few_bits_are_found_exactly(function: str, x: float, y: float) -> None:
    assert exact.values(function, {}, [x]) == [y]


def test_no_magnitude_is_too_large_or_lost() -> None:
    low, high = exact.values("exp", {}, [-1e6, 1e6])
    assert (low, high) == (2.0**-exact.FARTHEST, 2.0**exact.FARTHEST)
    assert exact.values("gelu", {}, [-1e5]) == [-(2.0**-exact.FARTHEST)]  # below zero: a floor gives -1


def test_the_precision_of_others_is_left_alone() -> None:
    mpmath.mp.prec = 61
    exact.values("exp", {}, [0.5])
    assert mpmath.mp.prec == 61
    mpmath.mp.prec = 53


@pytest.mark.parametrize(
    ("function", "exponent", "x", "why"),
    [("log", 0, 0.0, "infinite"), ("log", 0, -1.0, "not a number"), ("rsqrt", 0, 0.0, "infinite"),
     ("sqrt", 0, -1.0, "not a number"), ("sqrt", 0, 0.0, ""), ("reciprocal", 0, 0.0, "infinite"),
     ("power", -2, 0.0, "infinite"), ("power", 0.5, -1.0, "not a number"), ("power", 3, -1.0, "")],
)  # fmt: skip
def test_poles_are_known(function: str, exponent: float, x: float, why: str) -> None:
    assert exact.undefined(function, {"exponent": exponent}, x) == why
