"""MXINT: laws for widths, blocks, windows and tiles, and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.base import Code, QuantParams
from mase.formats.blocks import NAN_EXPONENT
from mase.formats.mxint import MXInt
from mase.testing import FormatLaws, same


class TestOCP(FormatLaws):
    fmt = MXInt()
    scales = True


class TestNarrow(FormatLaws):
    fmt = MXInt(width=4, block=8)
    scales = True


class TestTwoBits(FormatLaws):
    fmt = MXInt(width=2, block=3)
    axis = 0
    scales = True


class TestWindow(FormatLaws):
    fmt = MXInt(width=8, block=16, exp_bits=4)
    scales = True


class TestNarrowWindow(FormatLaws):
    fmt = MXInt(width=5, block=4, exp_bits=1)
    axis = -2
    scales = True


class TestTile(FormatLaws):
    fmt = MXInt(width=4, block=4, outer=(2,))
    scales = True


class TestDeepTile(FormatLaws):
    fmt = MXInt(width=6, block=2, outer=(2, 3))
    scales = True


class TestHalfAway(FormatLaws):
    fmt = MXInt(width=6, block=5, rounding="half_away")
    scales = True


class TestFloor(FormatLaws):
    fmt = MXInt(width=6, block=5, rounding="floor")
    symmetric = False
    nearest = False
    scales = True


class TestStochastic(FormatLaws):
    fmt = MXInt(width=4, block=16, rounding="stochastic")
    symmetric = False
    nearest = False


class TestNanEncoded(FormatLaws):
    fmt = MXInt(nan="encode")
    saturates = False


class TestWidest(FormatLaws):
    fmt = MXInt(width=16, block=7)
    nearest = False  # too many codes to try
    scales = True


def test_block_by_hand() -> None:  # top 5.0 -> exponent 2, step 1; 0.5 ties to 0, 1.5 to 2
    code = MXInt(width=4, block=4).encode(torch.tensor([5.0, -1.0, 0.5, 1.5]))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([2], [5, -1, 0, 2])


def test_greatest_magnitude_saturates_and_never_bumps_the_exponent() -> None:
    code = MXInt(width=4, block=2).encode(torch.tensor([7.9, -7.9]))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([2], [7, -7])


def test_window_saturates_above_and_denormalises_below() -> None:
    fmt = MXInt(width=4, block=1, exp_bits=1)  # two exponents
    x = torch.tensor([16.0, 1.5, 0.5, 0.125])
    code = fmt.encode(x, QuantParams(base=torch.tensor(0)))
    assert code.exponent is not None
    assert code.exponent.tolist() == [1, 0, 0, 0]
    assert fmt.quantize(x, QuantParams(base=torch.tensor(0))).tolist() == [3.5, 1.5, 0.5, 0.0]


def test_exponent_comes_from_bits_not_from_a_logarithm() -> None:
    powers = torch.ldexp(torch.ones(254), torch.arange(-126, 128))
    below = powers.nextafter(torch.tensor(0.0))
    exponent = MXInt(block=1).encode(below).exponent
    assert exponent is not None
    assert exponent.tolist() == [-127, *range(-126, 127)]  # the first is a subnormal, held by the least exponent


def test_exponents_stop_below_the_code_of_nan() -> None:
    code = MXInt(block=1).encode(torch.tensor([1e300, 2.0**128, 2.0**127], dtype=torch.float64))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([127] * 3, [127, 127, 64])


def test_zero_block_takes_the_least_exponent() -> None:
    assert MXInt(block=2).encode(torch.zeros(4)).exponent.tolist() == [-127, -127]  # type: ignore[union-attr]
    fmt = MXInt(block=2, exp_bits=3)
    params = fmt.calibrate(torch.tensor([8.0, 1.0, 0.0, 0.0]))
    assert fmt.encode(torch.zeros(4), params).exponent.tolist() == [3 - 7] * 2  # type: ignore[union-attr]


def test_blocks_lie_along_any_axis_and_short_ones_are_padded() -> None:
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    fmt = MXInt(width=4, block=2)
    for axis in (0, 1, 2, -3):
        params = fmt.calibrate(x, axis)
        code = fmt.encode(x, params)
        assert code.exponent is not None
        assert list(code.exponent.shape) == [-(-n // 2) if d == axis % 3 else n for d, n in enumerate(x.shape)]
        moved = x.movedim(axis, -1)
        assert same(fmt.quantize(x, params), fmt.quantize(moved, fmt.calibrate(moved)).movedim(-1, axis))


def test_tiles_lie_on_named_axes() -> None:
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    fmt = MXInt(width=4, block=3, outer=(2,))
    named = fmt.quantize(x, QuantParams(axes=(0, 2)))
    moved = fmt.quantize(x.movedim(0, 1), QuantParams())
    assert same(named, moved.movedim(1, 0))
    code = fmt.encode(x, QuantParams(axes=(0, 2)))
    assert code.exponent is not None
    assert tuple(code.exponent.shape) == (2, 3, 2)


def test_nan_and_infinity_make_a_nan_block_on_request() -> None:
    fmt = MXInt(block=2, nan="encode")
    x = torch.tensor([1.0, torch.nan, 2.0, 3.0, torch.inf, 0.0])
    code = fmt.encode(x)
    assert code.exponent is not None
    assert code.exponent.tolist() == [NAN_EXPONENT, 1, NAN_EXPONENT]
    assert torch.isnan(fmt.quantize(x)).tolist() == [True, True, False, False, True, True]


def test_stored_bits_by_hand() -> None:
    assert MXInt().bits((4096, 4096)) == 8.25
    assert MXInt(4, 16, 4).bits((10, 20)) == 4 + 4 * 20 / 200
    assert MXInt(4, 4, outer=(2,)).bits((6, 8)) == 4 + 8 / 8
    assert MXInt(4, 16).bits((32, 5), axis=0) == 4 + 8 * 2 * 5 / 160


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"width": 1}, "mxint: width is 1; allowed is 2..16"),
        ({"block": 0}, "mxint: block is 0; allowed is 1..65536"),
        ({"outer": (0,)}, "mxint: outer is 0; allowed is 1..65536"),
        ({"exp_bits": 9}, "mxint: exp_bits is 9; allowed is 1..8"),
        ({"nan": "keep"}, "mxint: nan is 'keep'; allowed is 'error', 'encode'"),
    ],
)
def test_impossible_fields_say_what_is_allowed(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError, match=text.replace(".", r"\.")):
        MXInt(**fields)  # type: ignore[arg-type]


def test_a_tile_needs_as_many_axes_as_it_has() -> None:
    with pytest.raises(FormatError, match="mxint8b4x8: block 4x8 on axes ending at -1 of a tensor with 1; 2 of them"):
        MXInt(block=8, outer=(4,)).quantize(torch.ones(8))
    with pytest.raises(FormatError, match="holds no exponents"):
        MXInt().decode(Code(torch.ones(3, dtype=torch.int64)))
