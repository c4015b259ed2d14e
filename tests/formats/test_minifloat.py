"""Minifloats: laws for sizes, specials and scales, and values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mase.errors import FormatError
from mase.formats.minifloat import Minifloat
from mase.testing import FormatLaws


class TestE4M3(FormatLaws):
    fmt = Minifloat(4, 3)


class TestE5M2(FormatLaws):
    fmt = Minifloat(5, 2)


class TestE3M2(FormatLaws):
    fmt = Minifloat(3, 2)


class TestE2M3(FormatLaws):
    fmt = Minifloat(2, 3)


class TestE2M1(FormatLaws):
    fmt = Minifloat(2, 1)


class TestIeee(FormatLaws):
    fmt = Minifloat(3, 4, special="ieee")


class TestUnsignedZero(FormatLaws):
    fmt = Minifloat(4, 3, bias=11, special="fnuz")


class TestNoMantissa(FormatLaws):
    fmt = Minifloat(3, 0)


class TestOneExponentBit(FormatLaws):
    fmt = Minifloat(1, 2, bias=-3)


class TestBrain(FormatLaws):
    fmt = Minifloat(8, 7, special="ieee")
    nearest = False  # too many codes to try


class TestTowardZero(FormatLaws):
    fmt = Minifloat(4, 3, rounding="zero")
    nearest = False


class TestCeil(FormatLaws):
    fmt = Minifloat(3, 2, rounding="ceil")
    nearest = False
    symmetric = False


class TestStochastic(FormatLaws):
    fmt = Minifloat(4, 3, rounding="stochastic")
    nearest = False
    symmetric = False


class TestScaled(FormatLaws):
    fmt = Minifloat(4, 3, per="tensor")
    scales = True


class TestScaledChannels(FormatLaws):
    fmt = Minifloat(2, 1, per="channel")
    axis = 0
    scales = True


class TestNanEncoded(FormatLaws):
    fmt = Minifloat(5, 2, nan="encode")


@pytest.mark.parametrize(
    ("fmt", "top", "least_normal", "least"),
    [
        (Minifloat(5, 2), 57344.0, 2.0**-14, 2.0**-16),
        (Minifloat(4, 3), 448.0, 2.0**-6, 2.0**-9),
        (Minifloat(3, 2), 28.0, 2.0**-2, 2.0**-4),
        (Minifloat(2, 3), 7.5, 1.0, 2.0**-3),
        (Minifloat(2, 1), 6.0, 1.0, 0.5),
    ],
)
def test_ocp_ranges(fmt: Minifloat, top: float, least_normal: float, least: float) -> None:
    positive = fmt.values()[: fmt.top_code + 1]
    assert (fmt.top, 2.0**fmt.least_exponent, positive[1].item()) == (top, least_normal, least)
    assert positive[-1] == top


def test_rounding_carries_into_the_next_binade() -> None:
    x = torch.tensor([1.97, 7.9, 0.0156, -1.97])
    assert Minifloat(4, 3).quantize(x).tolist() == [2.0, 8.0, 0.015625, -2.0]


def test_e2m1_ties_by_hand() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0])
    assert Minifloat(2, 1).quantize(x).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]


def test_small_negatives_become_negative_zero_where_there_is_one() -> None:
    tiny = torch.tensor([-1e-9, -0.0])
    assert Minifloat(4, 3).encode(tiny).mantissa.tolist() == [128, 128]
    assert Minifloat(4, 3, special="fnuz").encode(tiny).mantissa.tolist() == [0, 0]


def test_overflow_saturates_or_becomes_special() -> None:
    x = torch.tensor([61439.0, 61440.0, -1e9, math.inf])
    assert Minifloat(5, 2).quantize(x).tolist() == [57344.0, 57344.0, -57344.0, 57344.0]
    assert Minifloat(5, 2, overflow="special").quantize(x).tolist() == [57344.0, math.inf, -math.inf, math.inf]
    assert torch.isnan(Minifloat(4, 3, overflow="special").quantize(torch.tensor([464.0, 465.0]))).tolist() == [
        False,
        True,
    ]


def test_nan_gets_a_code_on_request() -> None:
    code = Minifloat(4, 3, nan="encode").encode(torch.tensor([math.nan]))
    assert code.mantissa.tolist() == [127]
    assert torch.isnan(Minifloat(4, 3).decode(code)).all()


def test_names_and_sizes_choose_specials() -> None:
    assert [Minifloat(*size).special for size in ((4, 3), (5, 2), (2, 1), (3, 4))] == ["fn", "ieee", "finite", "finite"]
    assert Minifloat(4, 3) == Minifloat(4, 3, bias=7, special="fn")
    assert str(Minifloat(4, 3, bias=11, special="fnuz")) == "e4m3b11fnuz"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"exp": 0}, "minifloat: exp is 0; allowed is 1..8"),
        ({"man": 24}, "minifloat: man is 24; allowed is 0..23"),
        ({"bias": 300}, "minifloat: bias is 300; allowed is -64..192"),
        ({"exp": 2, "man": 1, "nan": "encode"}, "minifloat: special is 'finite', so e2m1_nan has no code"),
        ({"exp": 3, "man": 0, "special": "ieee"}, "minifloat: special is 'ieee' and the size e3m0"),
        ({"special": "ocp"}, "minifloat: special is 'ocp'; allowed is 'ieee', 'fn', 'fnuz', 'finite'"),
    ],
)
def test_impossible_fields_say_what_is_allowed(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError, match=text.replace(".", r"\.")):
        Minifloat(**fields)  # type: ignore[arg-type]
