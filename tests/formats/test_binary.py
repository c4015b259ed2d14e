"""Binary: laws and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.binary import Binary
from mase.testing import FormatLaws


class TestTensor(FormatLaws):
    fmt = Binary()
    zero = False
    symmetric = False  # zero becomes positive
    nearest = False  # 0 lies in the range of codes and is none
    scales = True


class TestChannel(FormatLaws):
    fmt = Binary("channel")
    axis = 0
    zero = False
    symmetric = False
    nearest = False
    scales = True


class TestUnscaled(FormatLaws):
    fmt = Binary("none")
    zero = False
    symmetric = False
    nearest = False


def test_scales_are_rounded_to_what_they_are_stored_as() -> None:
    fmt = Binary("channel", "fp16")
    assert str(fmt) == "binaryc_fp16"
    x = torch.tensor([[0.1, -0.2], [0.0, 0.0]])
    params = fmt.calibrate(x, 0)
    assert params.scale is not None
    assert params.scale.tolist() == [float(torch.tensor(0.15).half()), 0.0]
    assert fmt.bits((4, 32), 0) == 1 + 16 / 32


def test_by_hand() -> None:
    x = torch.tensor([[1.0, -3.0, 0.0, -0.0], [0.5, 0.5, 0.5, -0.5]])
    assert Binary().quantize(x).tolist() == [[0.75, -0.75, 0.75, 0.75], [0.75, 0.75, 0.75, -0.75]]
    channel = Binary("channel")
    assert channel.quantize(x, channel.calibrate(x, 0)).tolist() == [[1.0, -1.0, 1.0, 1.0], [0.5, 0.5, 0.5, -0.5]]
    assert Binary("none").encode(x).mantissa.tolist() == [[1, -1, 1, 1], [1, 1, 1, -1]]


def test_impossible_fields_say_what_is_allowed() -> None:
    with pytest.raises(FormatError, match="binary: per is 'row'; allowed is 'none', 'tensor', 'channel'"):
        Binary("row")  # type: ignore[arg-type]
