"""Which formats have a place on chip, and the grid of integers that each becomes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mase.errors import UnsupportedOp
from mase.formats import Axes, Code, Format, QuantParams, parse
from mase.formats.base import Constants
from mase.formats.codebook import Codebook
from mase.formats.fixed import Fixed
from mase.formats.grid import Grid, signed_width
from mase.ops.linear import Linear

X = torch.tensor([[0.7, -1.0, 0.25, 0.0, 3.0]])


def grid(text: str, x: torch.Tensor = X) -> Grid:
    fmt = parse(text)
    return fmt.grid(fmt.calibrate(x), "node 'fc'")


@pytest.mark.parametrize(
    "text",
    [
        *("fixed8.4", "ufixed5.-3", "fixed1.0", "int5p", "int5pa", "mxint8b2e4", "mxint2b1", "mxint16b32e1"),
        *("bfp8", "bfp4b2e3_xfloor", "bfp5b3_tc", "e4m3", "e4m3fnuz", "e5m2", "e2m1", "e3m0", "e8m7", "e1m2"),
        *("mxfp4b2", "mxfp8e4m3b3_xceil", "mxfp8e5m2", "mxfp6e2m3_xeven", "bm6e2b2s4", "log4", "log8", "bl5b2s5"),
        *("binaryu", "ternaryu"),
    ],
)
def test_value_is_integer_times_unit(text: str) -> None:
    fmt = parse(text)
    params = fmt.calibrate(X)
    code, on_chip = fmt.encode(X, params), fmt.grid(params, "here")
    assert torch.equal(on_chip.integers(code) * 2.0**on_chip.unit, fmt.decode(code, params))
    plain, integers = on_chip.plain, on_chip.decoded(code)
    assert plain.plain is plain
    assert bool(((integers.mantissa >= plain.low) & (integers.mantissa <= plain.high)).all())
    assert torch.equal(plain.integers(integers), on_chip.integers(code))


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
        ("int8r", "real offset"),
        ("int8g4", "groups"),
        ("int8f", "scale below 0"),
        ("fixed8.4_wrap", "wraps"),
        ("mxint8b2x4", "blocks along one axis"),
        ("mxint8_nan", "NaN"),
        ("mxint8_mase", "specification"),
        ("mxfp4b2x4", "blocks along one axis"),
        ("e4m3_nan", "NaN"),
        ("e5m2_inf", "infinity"),
        ("e4m3_mase", "specification"),
        ("log4_mase", "specification"),
        (
            "nf4",
            "no hardware; allowed are bfp, binary, bl, bm, fixed, int, log, minifloat, mxfp, mxint, nvfp4, .*ternary",
        ),
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
    table = parse("codebook[-1,0,1]")

    def on_chip(fmt: Format, params: QuantParams, where: str) -> Grid:
        return Grid(2, True, -1, 1)

    def encode(fmt: Format, x: torch.Tensor, params: QuantParams | None = None) -> Code:
        return Code(x.sign().long())

    monkeypatch.setattr(Codebook, "grid", on_chip)
    monkeypatch.setattr(Codebook, "encode", encode)
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    fixed = Fixed(6, 3)
    operands = (fixed, QuantParams()), (table, table.calibrate(weight)), (fixed, QuantParams())
    built = Linear.build("fc", "here", 1, *operands, weight, None, attrs={})
    code = fixed.encode(x)
    assert torch.equal(built.reference(code).mantissa, built.oracle(code).mantissa)
    with pytest.raises(UnsupportedOp, match=r"has no hardware; allowed are bfp, .*bm, codebook, fixed.* and ternary"):
        grid("nf4")


# -- weights ----------------------------------------------------------------------------------------------------------


def weights() -> torch.Tensor:
    """Return weights ``[6, 11]`` of which an output is zero, one is tiny, and one has a great negative number."""
    x = torch.randn(6, 11, generator=torch.Generator().manual_seed(4))
    x[1], x[2], x[3, 4] = 0.0, x[2] * 2.0**-9, -7.0
    return x


def values(found: Constants, axis: int = -1) -> torch.Tensor:
    """Return the real weights that integers stand for."""
    unit = found.grid.integers(found.code) * 2.0**found.grid.unit
    scale = torch.ones(1) if found.scale is None else found.scale
    return unit * scale.double().reshape(-1, 1)


CONSTANTS = (
    *("fixed8.4", "int5", "int5c", "int5p", "int5a", "int5ca", "int4f", "int4cf", "int4g4p", "int4g4pa", "mxint4b4e3"),
    *("bfp4b4", "bfp4b4e3_xfloor_tc", "e4m3", "e4m3t", "e4m3c", "e5m2", "e2m1", "mxfp4b4", "mxfp8e4m3b8", "mxfp8e5m2"),
    *("bm5e2b4", "log4", "log6", "bl4b4", "binary", "binaryc", "binaryu", "ternary", "ternaryc", "ternaryu"),
)


@pytest.mark.parametrize("text", CONSTANTS)
def test_weights_are_integers_of_what_they_decode_to(text: str) -> None:
    fmt, x = parse(text), weights()
    params = fmt.calibrate(x, fmt.along(Axes()))
    found = fmt.constants(x, params, "here")
    assert torch.equal(values(found), fmt.quantize(x.double(), params))
    assert found.grid == fmt.weight_grid(params, "here")
    assert found.grid.plain is found.grid
    assert found.grid.low <= int(found.code.mantissa.min()) <= int(found.code.mantissa.max()) <= found.grid.high
    assert signed_width(found.grid.low, found.grid.high) <= found.grid.element_bits
    assert found.scale is None or bool((found.scale > 0).all())


@pytest.mark.parametrize("text", ["int4g4", "int3g5a", "int4g16f", "int8g4_fp16"])
def test_scales_of_groups_become_integers_of_eleven_bits(text: str) -> None:
    fmt, x = parse(text), weights()
    params = fmt.calibrate(x)
    assert params.scale is not None
    found = fmt.constants(x, params, "here")
    step = 2.0**found.grid.unit
    m = (params.scale.abs() / step).round().clamp(min=1)
    assert 1 << 10 <= int(m.max()) < 1 << 11
    snapped = replace(params, scale=m * step * params.scale.sign())
    assert torch.equal(values(found), fmt.quantize(x.double(), snapped))  # codes are derived afterwards
    assert found.grid.low <= int(found.code.mantissa.min()) <= int(found.code.mantissa.max()) <= found.grid.high
    assert found.scale is None


def test_a_scale_that_rounds_up_to_twelve_bits_takes_a_coarser_unit() -> None:
    params = QuantParams(scale=torch.tensor([[2.0 - 2.0**-12, 1.0]], dtype=torch.float64))
    found = parse("int4g2").constants(torch.tensor([[7.0, 1.0, 3.0, -7.0]]), params, "here")
    assert found.grid.unit == -9
    assert found.code.mantissa.tolist() == [[4 * 1024, 0, 3 * 512, -7 * 512]]


@pytest.mark.parametrize("text", ["nvfp4", "nvfp4b4", "nvfp4l1b4"])
def test_nvfp4_is_elements_times_significands_of_scales(text: str) -> None:
    fmt, x = parse(text), weights()
    params = fmt.calibrate(x)
    found = fmt.constants(x, params, "here")
    assert found.grid == fmt.weight_grid(params, "here")
    assert found.grid.width == 9
    assert int(found.code.mantissa.abs().max()) <= found.grid.high == 12 * 15
    real, exact = fmt.quantize(x.double(), params), values(found)
    assert bool(((real - exact).abs() <= 2.0**-23 * real.abs()).all())  # decode rounds both products to float32
    assert torch.equal(real, exact) or fmt.two_level  # type: ignore[attr-defined]
