"""Ternary: laws and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.ternary import Ternary
from mase.testing import FormatLaws


class TestTensor(FormatLaws):
    fmt = Ternary()
    nearest = False  # the threshold is 0.75 of the mean magnitude, not half the scale
    scales = True


class TestChannel(FormatLaws):
    fmt = Ternary("channel")
    axis = 0
    nearest = False
    scales = True


class TestUnscaled(FormatLaws):
    fmt = Ternary("none")


def test_by_hand() -> None:  # mean magnitude 2, threshold 1.5, mean above it 3
    x = torch.tensor([1.5, -1.5, 1.0, 2.0, -4.0, 2.0])
    fmt = Ternary()
    params = fmt.calibrate(x)
    assert params.threshold == 1.5
    assert params.scale == torch.tensor(8 / 3).double()
    assert fmt.encode(x, params).mantissa.tolist() == [0, 0, 0, 1, -1, 1]


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match="ternary: per is 'row'; allowed is 'none', 'tensor', 'channel'"):
        Ternary("row")  # type: ignore[arg-type]
