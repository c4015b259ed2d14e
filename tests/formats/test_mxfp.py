"""MXFP: laws for the OCP elements and every exponent rule, and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import parse
from mase.formats.mxfp import MXFP
from mase.testing import FormatLaws


class TestMXFP8(FormatLaws):
    fmt = MXFP(4, 3)
    scales = True


class TestMXFP8Wide(FormatLaws):
    fmt = MXFP(5, 2, block=8)
    axis = 0
    scales = True


class TestMXFP6(FormatLaws):
    fmt = MXFP(3, 2, block=16)
    scales = True


class TestMXFP6Fine(FormatLaws):
    fmt = MXFP(2, 3, block=5)
    scales = True


class TestMXFP4(FormatLaws):
    fmt = MXFP(2, 1)
    scales = True


class TestCeil(FormatLaws):
    fmt = MXFP(2, 1, block=8, rule="ceil")
    scales = True


class TestRceil(FormatLaws):
    fmt = MXFP(4, 3, block=8, rule="rceil")
    scales = True


class TestEven(FormatLaws):
    fmt = MXFP(2, 3, block=8, rule="even")
    scales = True


class TestTile(FormatLaws):
    fmt = MXFP(2, 1, block=4, outer=(4,))
    scales = True


class TestHalfAway(FormatLaws):
    fmt = MXFP(2, 1, block=8, rounding="half_away")
    scales = True


class TestNanEncoded(FormatLaws):
    fmt = MXFP(4, 3, nan="encode")
    saturates = False


def test_block_by_hand() -> None:  # top 7.9: exponent 2, X = 2 - 2 = 0; 7.9 saturates at 6, 2.5 ties to 2
    code = MXFP(2, 1, block=4).encode(torch.tensor([7.9, 2.5, -0.3, 0.0]))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([0], [7, 4, 9, 0])
    assert MXFP(2, 1, block=4).decode(code).tolist() == [6.0, 2.0, -0.5, 0.0]


@pytest.mark.parametrize(
    ("rule", "exponents"),  # of e2m1, greatest 6 = 1.5 * 2**2: X + 2 for maxima 4, 6, 6.01, 7, 7.5
    [("floor", [2, 2, 2, 2, 2]), ("ceil", [2, 3, 3, 3, 3]), ("rceil", [2, 2, 3, 3, 3]), ("even", [2, 2, 2, 3, 3])],
)
def test_exponent_rules_by_hand(rule: str, exponents: list[int]) -> None:
    x = torch.tensor([4.0, 6.0, 6.01, 7.0, 7.5])
    code = MXFP(2, 1, block=1, rule=rule).encode(x)  # type: ignore[arg-type]
    assert code.exponent is not None
    assert (code.exponent + 2).tolist() == exponents


def test_nothing_clips_under_rceil() -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    fmt = MXFP(2, 1, rule="rceil")
    low, high = fmt.limits(x, fmt.calibrate(x))
    assert bool(((x >= low) & (x <= high)).all())


def test_stored_bits_are_those_of_the_specification() -> None:
    sizes = {"mxfp8e4m3": 8.25, "mxfp8e5m2": 8.25, "mxfp6e3m2": 6.25, "mxfp6e2m3": 6.25, "mxfp4": 4.25}
    assert {text: parse(text).bits((64, 64)) for text in sizes} == sizes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mxfp8", "the element's split is missing; allowed are mxfp4, or a split as in mxfp8e4m3"),
        ("mxfp8e5m3", "width is 8; e5m3 and a sign take 9 bits"),
        ("mxfp8e4m3e2", "'e2' follows 'mxfp8e4m3'"),
        ("mxfp8e4m3b0", "mxfp: block is 0; allowed is 1..65536"),
    ],
)
def test_impossible_texts_say_what_is_allowed(text: str, error: str) -> None:
    with pytest.raises(FormatError, match=error.replace(".", r"\.")):
        parse(text)
