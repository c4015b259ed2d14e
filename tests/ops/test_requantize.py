"""Requantize: one rounding from any class of formats to any other; border inputs where rounding rules disagree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.blocks.output import Output
from mase.dataflow.stream import Travel
from mase.errors import UnsupportedOp
from mase.formats import Code, QuantParams, parse
from mase.netlist import build
from mase.ops.requantize import Requantize
from mase.testing import Mapped, OpLaws, same_codes
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network

SOURCES = ("fixed6.4", "ufixed5.6", "int5", "int6p", "mxint5b4e3", "mxint6b8e2")
TARGETS = ("fixed4.1", "ufixed7.9", "int6", "int4p", "mxint4b2e4", "mxint7b8e1")


def mapped(source: str, target: str, shape: tuple[int, ...], lanes: int, rounding: str = "even") -> Mapped:
    """Return a requantize node between two ReLUs that keep the source format and the target format."""
    torch.manual_seed(len(shape) + lanes)
    x = torch.randn(6, *shape)
    formats = {"0": NodeFormats(output=source), "0_requantize": NodeFormats(output=target, rounding=rounding)}
    folding = {"0": Folding(1, 1), "0_requantize": Folding(lanes, lanes)}
    case = Network("requantize", [nn.ReLU()], x, source, formats, folding, requantized=("0",)).case()
    return Mapped(case.graph, case.code)


@cache
def pairs() -> Mapping[str, Mapped]:
    """Return every source beside every other kind of target, at sizes that lanes do not divide."""
    shapes = itertools.cycle([((5,), 2), ((2, 9), 4), ((3, 1), 8), ((13,), 1)])
    modes = itertools.cycle(("even", "half_up", "trunc"))
    out = {}
    for i, (source, target) in enumerate(zip(SOURCES * 2, (*TARGETS, *TARGETS[1:], TARGETS[0]), strict=True)):
        rounding = "even" if target.startswith("mxint") else next(modes)
        out[f"requantize{i}"] = mapped(source, target, *next(shapes), rounding)
    return out


class TestLaws(OpLaws):
    kind = "requantize"

    def graphs(self) -> Mapping[str, Mapped]:
        return pairs()


def op_between(
    source: str, target: str, x: Tensor, y: Tensor, rounding: str = "even", relu: bool = False
) -> Requantize:
    """Return the operator between formats calibrated on ``x`` and on ``y``."""
    (fx, fy) = parse(source), parse(target)
    px, py = fx.calibrate(x), fy.calibrate(y)
    gx, gy = fx.grid(px, "here"), fy.grid(py, "here")
    scales = px.scale if gx.scaled else None, py.scale if gy.scaled else None
    out = Output.of(gy, *scales, gx.unit, gx.digits, relu, rounding, "here")
    return Requantize("node", 1, x.shape[-1], gx, out, 0, Travel.of(x.shape[1:]))


def codes(source: str, x: Tensor) -> Code:
    fmt = parse(source)
    return fmt.encode(x, fmt.calibrate(x))


def test_to_fewer_bits_by_hand() -> None:  # 0.5, 1.5 and -0.5 of a step tie to even; 100 saturates
    x = torch.tensor([[0.25, 0.75, -0.25, 0.5, 3.75, -4.0]])
    op = op_between("fixed6.3", "fixed3.1", x, x)
    assert op.reference(codes("fixed6.3", x)).mantissa.tolist() == [[0, 2, 0, 1, 3, -4]]


def test_to_more_bits_shifts() -> None:
    x = torch.tensor([[1.5, -2.0]])
    assert op_between("fixed4.1", "fixed9.4", x, x).reference(codes("fixed4.1", x)).mantissa.tolist() == [[24, -32]]


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "int5"])  # an arbitrary scale becomes 16 bits
@pytest.mark.parametrize("target", [t for t in TARGETS if not t.startswith("mxint") and t != "int6"])
def test_equals_the_format_where_the_ratio_is_a_power_of_two(source: str, target: str) -> None:
    x = torch.randn(40, 12).clamp(-2, 2)
    op = op_between(source, target, x, x)
    assert op.out.multiplier is None
    fx, fy = parse(source), parse(target)
    real = fx.decode(codes(source, x), fx.calibrate(x))
    assert torch.equal(op.reference(codes(source, x)).mantissa, fy.encode(real, fy.calibrate(x)).mantissa)


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "int5"])
@pytest.mark.parametrize("target", [t for t in TARGETS if t.startswith("mxint")])
def test_blocks_equal_the_format(source: str, target: str) -> None:
    x = torch.randn(40, 12) * 2.0 ** torch.randint(-9, 3, (40, 1))
    fx, fy = parse(source), parse(target)
    real = fx.decode(codes(source, x), fx.calibrate(x))
    found, expected = op_between(source, target, x, x).reference(codes(source, x)), fy.encode(real, fy.calibrate(x))
    assert torch.equal(found.mantissa, expected.mantissa)
    assert torch.equal(found.exponent, expected.exponent)  # type: ignore[arg-type]  # blocks have exponents


# -- between any two classes ------------------------------------------------------------------------------------------

FROM = (
    *("fixed7.4", "int5p", "int5pa", "mxint5b4e3", "bfp5b2e3", "e2m1", "e3m2", "e4m3", "e5m2", "bm6e2b4s3", "log4"),
    *("bl4b2s3", "ternaryu", "binaryu", "nvfp4l1b4", "mxint4b4"),
)
INTO = (
    *("fixed8.3", "ufixed5.2", "int5p", "int6pa", "mxint4b2e3", "bfp5b4e4", "bfp4b2e3_xfloor_tc", "e2m1", "e4m3"),
    *("e5m2", "e3m0", "mxfp4b2", "mxfp8e4m3b4_xceil", "bm6e2b2s4", "log4", "log7b60", "bl4b2", "bl3b4s3"),
    *("mxfp4b2_xeven", "mxfp4b4_xrceil", "mxfp8e4m3b4_xrceil", "mxfp8e5m2b2_xeven", "mxfp5e4m0b2_xrceil"),
    *("binary", "binaryu", "ternary", "ternaryu", "nvfp4b4", "nvfp4l1b2", "nvfp4b1"),
)


@pytest.mark.parametrize("source", FROM)
@pytest.mark.parametrize("target", INTO)
def test_any_class_becomes_any_other_as_encode_has_it(source: str, target: str) -> None:
    x = torch.randn(24, 2, 8) * 2.0 ** torch.randint(-6, 3, (24, 1, 1), generator=torch.Generator().manual_seed(1))
    fx, fy = parse(source), parse(target)
    px, py = fx.calibrate(x), fy.calibrate(x)
    gx, gy = fx.grid(px, "here"), fy.grid(py, "here")
    code = fx.encode(x, px).on_stream()
    out = Output.of(gy, None, py.scale if gy.scaled else None, gx.unit, gx.digits, False, "even", "here")
    op = Requantize("node", 2, 8, gx.plain, out, 0, Travel.of((2, 8)))
    found, expected = op.reference(gx.decoded(code)), fy.encode(fx.decode(code, px), py).on_stream()
    zero = fy.decode(expected, py) == 0  # encode keeps the sign of zero in minifloats; hardware has one zero
    floats = gy.pattern is not None and gy.pattern.subnormal
    assert torch.equal(found.mantissa, torch.where(zero & floats, 0, expected.mantissa))
    assert (found.exponent is None) == (expected.exponent is None)
    assert found.exponent is None or torch.equal(found.exponent, expected.exponent)  # type: ignore[arg-type]
    assert same_codes(op.oracle(gx.decoded(code)), found)


# -- border inputs: found by search, and kept -------------------------------------------------------------------------


def even(q: Fraction) -> int:
    return round(q)


def half_up(q: Fraction) -> int:
    return (q + Fraction(1, 2)).__floor__()


def half_away(q: Fraction) -> int:
    return half_up(q) if q >= 0 else -half_up(-q)


def toward_zero(q: Fraction) -> int:
    return int(q)


def floor(q: Fraction) -> int:
    return q.__floor__()


BORDERS = [  # rule of the node, its rival, and inputs x (of y = 5 x / 8) on which the two disagree
    ("even", half_up, (-12, 4, 20)),
    ("even", half_away, (-20, -4, 4, 20)),
    ("even", floor, (1, 3, 11, -7)),
    ("half_up", even, (4, -12, 20)),
    ("half_up", half_away, (-12, -20, -28)),
    ("trunc", toward_zero, (-1, -3, -9)),
    ("trunc", even, (1, 3, -4, -7)),
]
RULES = {"even": even, "half_up": half_up, "trunc": floor}


@pytest.mark.parametrize(("mode", "rival", "inputs"), BORDERS)
def test_border_inputs_follow_the_node_and_not_its_rival(mode: str, rival: type, inputs: tuple[int, ...]) -> None:
    fmt = parse("int8")
    grid = fmt.grid(QuantParams(scale=torch.tensor(1.0)), "here")
    out = Output.of(grid, torch.tensor(5.0).double(), torch.tensor(8.0).double(), 0, 127, False, mode, "here")
    op = Requantize("node", 1, len(inputs), grid, out, 0, Travel.of((len(inputs),)))
    assert out.multiplier is not None
    assert Fraction(int(out.multiplier), 1 << out.shift) == Fraction(5, 8)
    found = op.reference(Code(torch.tensor([inputs]))).mantissa[0].tolist()
    assert found == [RULES[mode](Fraction(5 * x, 8)) for x in inputs]
    assert all(a != b for a, b in zip(found, (rival(Fraction(5 * x, 8)) for x in inputs), strict=True))


def test_the_multiplier_is_the_scale() -> None:
    """A scale of sqrt(1/2) is 46341 / 2**16 on chip; the real one gives other codes for these inputs."""
    grid = parse("int16").grid(QuantParams(scale=torch.tensor(1.0)), "here")
    ratio = torch.tensor(2**-0.5, dtype=torch.float64)
    out = Output.of(grid, ratio, torch.tensor(1.0).double(), 0, 32767, False, "even", "here")
    inputs = [1801, 2378, 2617, 3194, 32727]
    found = out.apply(torch.tensor([inputs]).double()).mantissa[0].tolist()
    assert found == [even(Fraction(x * 46341, 1 << 16)) for x in inputs]
    assert all(a != even(x * Fraction(float(ratio))) for a, x in zip(found, inputs, strict=True))


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["fixed8.4", "mxint5b4", "e4m3", "int6"])
def test_exponents_of_eight_bits_are_exact(target: str) -> None:
    x = torch.tensor([[3.0, 2.0**-90, -0.4, 1.6e30, -(2.0**-120), 5.5, 0.0, 0.07]])
    op = op_between("mxint8b4", target, x, x[:, 5:6])
    code = codes("mxint8b4", x)
    assert same_codes(op.reference(code), op.oracle(code))
    assert op.raw_width >= 8 + 255


def test_lanes_must_fit_both_blocks() -> None:
    op = op_between("mxint8b4e2", "mxint8b8e2", torch.ones(1, 8), torch.ones(1, 8))
    assert list(op.blocks(2, 2, {})) == ["", "normalise"]
    with pytest.raises(UnsupportedOp, match="12 lanes do not fit blocks of 8"):
        op.blocks(12, 12, {})


def test_warnings_name_coarse_multipliers() -> None:
    netlist = build(mapped("fixed6.4", "int5", (3,), 1).graph)
    assert netlist.ops["_0_requantize"].warnings() == ()
