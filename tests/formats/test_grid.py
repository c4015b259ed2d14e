"""Which formats have a place on chip, and the grid of integers that each becomes."""

from __future__ import annotations

import pytest
import torch

from mase.errors import UnsupportedOp
from mase.formats import Format, QuantParams, parse
from mase.formats.fixed import Fixed
from mase.formats.grid import Grid
from mase.formats.ternary import Ternary
from mase.ops.linear import Linear

X = torch.tensor([[0.7, -1.0, 0.25, 0.0, 3.0]])


def grid(text: str, x: torch.Tensor = X) -> Grid:
    fmt = parse(text)
    return fmt.grid(fmt.calibrate(x), "node 'fc'")


@pytest.mark.parametrize(
    "text", ["fixed8.4", "ufixed5.-3", "fixed1.0", "int5p", "mxint8b2e4", "mxint2b1", "mxint16b32e1"]
)
def test_value_is_integer_times_unit(text: str) -> None:
    fmt = parse(text)
    params = fmt.calibrate(X)
    code, on_chip = fmt.encode(X, params), fmt.grid(params, "here")
    assert torch.equal(on_chip.integers(code) * 2.0**on_chip.unit, fmt.decode(code, params))


def test_a_real_scale_stays_apart() -> None:
    fmt = parse("int5")
    params = fmt.calibrate(X)
    on_chip = fmt.grid(params, "here")
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


def test_exponents_of_a_beat() -> None:
    on_chip = grid("mxint8b4e4")
    assert [on_chip.exponents_per_beat(lanes) for lanes in (1, 2, 4, 8, 12)] == [1, 1, 1, 2, 3]
    assert grid("fixed8.4").exponents_per_beat(8) == 0


def test_a_format_without_parameters_needs_none() -> None:
    assert parse("fixed8.4").grid(QuantParams(), "here").unit == -4


@pytest.mark.parametrize("text", ["int8", "int8p", "int4c"])
def test_an_integer_without_a_scale_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedOp, match=rf"here: format {text} has no scale"):
        parse(text).grid(QuantParams(), "here")


def test_a_format_that_says_its_grid_has_hardware_and_is_named_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_chip(fmt: Format, params: QuantParams, where: str) -> Grid:
        return Grid(2, True, -1, 1, scaled=True)

    monkeypatch.setattr(Ternary, "grid", on_chip)
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    ternary, fixed = Ternary(), Fixed(6, 3)
    operands = (fixed, QuantParams()), (ternary, ternary.calibrate(weight)), (fixed, QuantParams())
    built = Linear.build("fc", "here", 1, *operands, weight, None, attrs={})
    code = fixed.encode(x)
    assert torch.equal(built.reference(code).mantissa, built.oracle(code).mantissa)
    with pytest.raises(UnsupportedOp, match=r"has no hardware; allowed are fixed, int, mxint and ternary"):
        grid("mxfp8e4m3")
