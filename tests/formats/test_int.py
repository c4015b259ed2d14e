"""Integers with real scales: laws for each kind of scale and zero, and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import QuantParams, parse
from mase.formats.int import Int
from mase.testing import Data, FormatLaws


class TestTensor(FormatLaws):
    fmt = Int(8)
    scales = True


class TestChannel(FormatLaws):
    fmt = Int(4, channel=True)
    axis = 0
    scales = True


class TestPower(FormatLaws):
    fmt = Int(6, power=True)
    scales = True


class TestChannelPower(FormatLaws):
    fmt = Int(5, channel=True, power=True)
    axis = 1
    scales = True


class TestGroup(FormatLaws):
    fmt = Int(4, group=8)
    scales = True


class TestGroupOnFirstAxis(FormatLaws):
    fmt = Int(3, group=3)
    axis = 0
    scales = True


class TestZeroPoint(FormatLaws):
    fmt = Int(8, zero="int")
    symmetric = False
    scales = True


class TestGroupZeroPoint(FormatLaws):
    fmt = Int(4, group=32, zero="int")
    symmetric = False
    scales = True


class TestRealOffset(FormatLaws):
    fmt = Int(4, group=8, zero="real")
    zero = False
    symmetric = False
    scales = True


class TestFullRange(FormatLaws):
    fmt = Int(4, full=True)
    symmetric = False
    scales = True


class TestHalfPrecisionScale(FormatLaws):
    fmt = Int(8, group=16, scale_type="fp16")


class TestBrainScale(FormatLaws):
    fmt = Int(8, scale_type="bf16")
    scales = True


class TestEightBitScale(FormatLaws):
    fmt = Int(4, group=8, scale_type="e4m3")


class TestFloatScale(FormatLaws):
    fmt = Int(8, group=8, scale_type="fp32")
    scales = True


class TestWide(FormatLaws):
    fmt = Int(16, channel=True)
    nearest = False  # too many codes to try
    scales = True


class TestHalfUp(FormatLaws):
    fmt = Int(6, rounding="half_up")
    symmetric = False
    scales = True


def test_symmetric_by_hand() -> None:
    x = torch.tensor([7.0, -3.5, 1.0, 0.4, -0.5])
    fmt = Int(4)
    params = fmt.calibrate(x)
    assert params.scale == 1.0
    assert fmt.encode(x, params).mantissa.tolist() == [7, -4, 1, 0, 0]


def test_full_range_gives_the_greatest_magnitude_the_code_without_opposite() -> None:
    for top in (8.0, -8.0):
        x = torch.tensor([top, top / 4, -top / 4])
        fmt = Int(4, full=True)
        params = fmt.calibrate(x)
        assert params.scale == -top / 8
        assert fmt.encode(x, params).mantissa.tolist() == [-8, -2, 2]
        assert torch.equal(fmt.quantize(x, params), x)


def test_zero_point_makes_zero_exact_and_offset_makes_the_least_value_exact() -> None:
    x = torch.tensor([-0.7, 0.0, 2.1, 3.9])
    with_zero, with_offset = Int(4, zero="int"), Int(4, zero="real")
    assert with_zero.quantize(x)[1] == 0
    assert with_offset.quantize(x)[0] == x[0]
    assert with_zero.calibrate(x).zero_point == 2  # -0.7 lies 2.28 steps of 4.6 / 15 below zero


def test_groups_have_a_scale_each_and_the_last_may_be_short() -> None:
    x = torch.tensor([[7.0, 1.0, 70.0, 20.0, 700.0]])
    fmt = Int(4, group=2)
    params = fmt.calibrate(x)
    assert params.scale is not None
    assert params.scale.tolist() == [[1.0, 10.0, 100.0]]
    assert fmt.encode(x, params).mantissa.tolist() == [[7, 1, 7, 2, 7]]


def test_short_scales_have_15_significand_bits() -> None:
    for seed in range(20):
        scale = Int(8).calibrate(Data(seed, (50,)).tensor()).scale
        assert scale is not None
        assert scale.view(torch.int64) & ((1 << 52 - 14) - 1) == 0


@pytest.mark.parametrize("fmt", [Int(8, scale_type="fp32"), Int(8, group=8, scale_type="fp32"), Int(4, zero="int")])
def test_ties_beside_the_float32_quotient_are_found(fmt: Int) -> None:
    """Elements whose true quotient lies just beside a tie on which the float32 quotient lands."""
    scale = torch.tensor(0.1, dtype=torch.float32).to(torch.float64)
    tie = ((torch.arange(0, 120) + 0.5) * scale).to(torch.float32)
    x = torch.cat([tie, tie.nextafter(torch.tensor(0.0)), tie.nextafter(torch.tensor(torch.inf))]).reshape(-1, 8)
    quotient = x / scale.to(torch.float32)
    assert int((quotient.frac() == 0.5).sum()) > 100  # the test meets what it is about
    shared = scale if not fmt.group else scale.expand(len(x), 1).clone()
    zero = torch.tensor(3) if fmt.zero == "int" else None
    params = QuantParams(scale=shared, zero_point=zero)
    exact = fmt.decode(fmt.encode(x, params), params).to(torch.float32)
    assert torch.equal(fmt.quantize(x, params), exact)
    assert torch.equal(
        fmt.quantize(torch.cat([x] * 64), QuantParams(shared if shared.ndim == 0 else torch.cat([shared] * 64), zero)),
        torch.cat([exact] * 64),
    )


def test_scales_of_many_digits_are_rounded_with_care() -> None:
    """With 18 significand bits not every tie is a float32, so that quotients beside one may land on it."""
    draw = torch.Generator().manual_seed(0)
    for digits in (torch.randint(1 << 16, 1 << 17, (40,), generator=draw) * 2 + 1).tolist():
        scale = torch.tensor(digits * 2.0**-20, dtype=torch.float64)
        tie = ((torch.arange(-127, 127) + 0.5) * scale).to(torch.float32)
        x = torch.cat([tie, tie.nextafter(torch.tensor(-torch.inf)), tie.nextafter(torch.tensor(torch.inf))])
        params = QuantParams(scale=scale)
        exact = Int(8).decode(Int(8).encode(x, params), params).to(torch.float32)
        assert torch.equal(Int(8).quantize(x, params), exact)


def test_stored_bits_by_hand() -> None:
    assert Int(4, group=128, zero="int", scale_type="fp16").bits((4096, 4096)) == 4 + (16 + 4) / 128
    assert Int(8).bits((10, 10)) == 8.32
    assert Int(8, channel=True).bits((10, 20), axis=0) == 8 + 32 * 10 / 200
    assert Int(4, group=8).bits((3, 10)) == 4 + 32 * 6 / 30


def test_one_bit_is_two_values_a_group_or_a_value_and_zero() -> None:
    x = torch.tensor([[-1.0, 3.0, -0.75, 2.5], [0.5, -0.25, -4.0, 0.125]])
    assert parse("int1g4r").quantize(x).tolist() == [[-1.0, 3.0, -1.0, 3.0], [0.5, 0.5, -4.0, 0.5]]
    assert parse("int1g4f").quantize(x).tolist() == [[0.0, 3.0, 0.0, 3.0], [0.0, 0.0, -4.0, 0.0]]
    assert parse("int1g4r_fp16").bits((2, 8)) == 1 + 2 * 16 / 4


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"width": 1}, "int: width is 1; allowed is 2..16"),
        ({"width": 0, "full": True}, "int: width is 0; allowed is 1..16"),
        ({"group": -1}, "int: group is -1; allowed is 0..65536"),
        ({"group": 8, "channel": True}, "int: channel is True and group is 8; allowed is one of them"),
        ({"full": True, "zero": "int"}, "int: full is True and zero is 'int'"),
        ({"power": True, "scale_type": "bf16"}, "int: power is True and scale_type is 'bf16'"),
        ({"scale_type": "fp8"}, "int: scale_type is 'fp8'; allowed is 'short', 'fp32'"),
        ({"compat": "mase"}, "int: compat is 'mase'; allowed is '', 'torchao'"),
    ],
)
def test_impossible_fields_say_what_is_allowed(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError, match=text.replace(".", r"\.")):
        Int(**fields)  # type: ignore[arg-type]


def test_two_names_of_powers_of_two_are_one_format() -> None:
    assert Int(8, power=True) == Int(8, scale_type="e8m0")


def test_calibration_refuses_infinity_and_missing_scales() -> None:
    with pytest.raises(FormatError, match="int8: data to calibrate on holds infinity"):
        Int(8).calibrate(torch.tensor([1.0, torch.inf]))
    with pytest.raises(FormatError, match="int8: the parameters hold no scale"):
        Int(8).encode(torch.ones(3), QuantParams())
    with pytest.raises(FormatError, match="int8: decode needs the scale"):
        Int(8).decode(Int(8).encode(torch.ones(3)))
