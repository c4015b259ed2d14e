"""Which formats have a place on chip, and the grid of integers that each becomes."""

from __future__ import annotations

import pytest
import torch

from mase.errors import UnsupportedOp
from mase.formats import QuantParams, parse
from mase.ops.grid import Grid, activation_grid, check_lanes, signed_width

X = torch.tensor([[0.7, -1.0, 0.25, 0.0, 3.0]])


def grid(text: str, x: torch.Tensor = X) -> Grid:
    fmt = parse(text)
    return Grid.of(fmt, fmt.calibrate(x), "node 'fc'")


@pytest.mark.parametrize(
    "text", ["fixed8.4", "ufixed5.-3", "fixed1.0", "int5p", "mxint8b2e4", "mxint2b1", "mxint16b32e1"]
)
def test_value_is_integer_times_unit(text: str) -> None:
    fmt = parse(text)
    params = fmt.calibrate(X)
    code, on_chip = fmt.encode(X, params), Grid.of(fmt, params, "here")
    assert torch.equal(on_chip.integers(code) * 2.0**on_chip.unit, fmt.decode(code, params))


def test_a_real_scale_stays_apart() -> None:
    fmt = parse("int5")
    params = fmt.calibrate(X)
    on_chip = Grid.of(fmt, params, "here")
    assert on_chip.scaled
    assert torch.equal(
        on_chip.integers(fmt.encode(X, params)) * params.scale, fmt.decode(fmt.encode(X, params), params)
    )


def test_codes_stay_between_low_and_high() -> None:
    for text in ("fixed3.1", "ufixed3.1", "int3", "mxint3b4e2"):
        fmt, on_chip = parse(text), grid(text)
        codes = fmt.encode(1e9 * X, fmt.calibrate(X)).mantissa
        assert (int(codes.min()), int(codes.max())) == (on_chip.low, on_chip.high)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("int8a", "zero point"),
        ("int8r", "real offset"),
        ("int8g4", "groups"),
        ("int8f", "sign"),
        ("fixed8.4_wrap", "wraps"),
        ("mxint8b2x4", "blocks along one axis"),
        ("mxint8_nan", "NaN"),
        ("mxint8_mase", "specification"),
        ("mxfp8e4m3", "no hardware; allowed are fixed, int and mxint"),
    ],
)
def test_what_hardware_cannot_do_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(UnsupportedOp, match=rf"node 'fc': .*{text}.*{why}"):
        grid(text)


def test_activations_have_one_scale() -> None:
    fmt = parse("int8c")
    with pytest.raises(UnsupportedOp, match="scale a channel"):
        activation_grid(fmt, fmt.calibrate(X), "node 'fc'")


def test_lanes_fit_blocks() -> None:
    on_chip = grid("mxint8b8e4")
    for lanes in (1, 2, 4, 8, 16, 24):
        check_lanes("here", on_chip, lanes)
    for lanes in (3, 5, 6, 12):
        with pytest.raises(
            UnsupportedOp, match=f"{lanes} lanes do not fit blocks of 8; allowed are divisors and multiples"
        ):
            check_lanes("here", on_chip, lanes)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-2, 2, 3), (-128, 127, 8), (-129, 0, 9), (0, 128, 9)],
)
def test_signed_width_is_the_least(low: int, high: int, bits: int) -> None:
    assert signed_width(low, high) == bits


def test_exponents_of_a_beat() -> None:
    on_chip = grid("mxint8b4e4")
    assert [on_chip.exponents_per_beat(lanes) for lanes in (1, 2, 4, 8, 12)] == [1, 1, 1, 2, 3]
    assert grid("fixed8.4").exponents_per_beat(8) == 0


def test_parameters_that_lack_a_scale_are_refused_before_hardware() -> None:
    assert Grid.of(parse("fixed8.4"), QuantParams(), "here").unit == -4
