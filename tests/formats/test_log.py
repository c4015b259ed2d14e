"""Logarithmic numbers: laws and values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mase.errors import FormatError
from mase.formats.log import Log
from mase.testing import FormatLaws


class TestFourBits(FormatLaws):
    fmt = Log(4)
    zero = False
    symmetric = False  # zero has no opposite: it becomes the least positive number
    nearest = False  # in the logarithm; see below


class TestEightBits(FormatLaws):
    fmt = Log(8)
    zero = False
    symmetric = False
    nearest = False


class TestBias(FormatLaws):
    fmt = Log(3, bias=-2)
    zero = False
    symmetric = False
    nearest = False


class TestBeyondFloat32(FormatLaws):
    fmt = Log(9, bias=140)
    zero = False
    symmetric = False
    nearest = False


def test_midpoint_is_geometric() -> None:
    middle = torch.tensor(math.sqrt(2.0))  # float32 rounds it down
    x = torch.stack([middle.nextafter(torch.tensor(2.0)), middle, torch.tensor(0.7), torch.tensor(-0.71)])
    assert Log(4).quantize(x).tolist() == [2.0, 1.0, 0.5, -1.0]


def test_nearest_in_the_logarithm() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    fmt = Log(5)
    distance = (torch.log2(fmt.quantize(x).abs()) - torch.log2(x.abs())).abs()
    low, high = fmt.exponents
    inside = (x.abs() > 2.0**low) & (x.abs() < 2.0**high)
    assert bool((distance[inside] <= 0.5 + 1e-12).all())  # of the logarithm in float64


def test_zero_becomes_the_least_positive_number() -> None:
    assert Log(4).quantize(torch.tensor([0.0, -0.0, 1e-30, -1e-30])).tolist() == [0.125, 0.125, 0.125, -0.125]


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match=r"log: width is 1; allowed is 2\.\.9"):
        Log(1)
    with pytest.raises(FormatError, match=r"log: bias is 500; allowed is -64\.\.255"):
        Log(4, 500)
