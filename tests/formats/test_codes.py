"""Exhaustive: every code of every small format decodes and comes back; tables equal those of ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from mase.formats.base import Code, Format, QuantParams
from mase.formats.bfp import BFP
from mase.formats.binary import Binary
from mase.formats.bl import BlockLog
from mase.formats.blocks import OCP_BASE, BlockFormat
from mase.formats.bm import BlockMinifloat
from mase.formats.codebook import Codebook, TableBlocks
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.formats.log import Log
from mase.formats.minifloat import Minifloat
from mase.formats.mxfp import MXFP
from mase.formats.mxint import MXInt
from mase.formats.nf import NormalFloat
from mase.formats.nvfp4 import NVFP4
from mase.formats.scales import scale_code, scale_value
from mase.formats.ternary import Ternary

WIDE_FLOATS = [(5, 10, "ieee"), (8, 7, "ieee"), (4, 11, "finite"), (6, 9, "fnuz"), (3, 12, "fn")]
SMALL_FLOATS = [
    (exp, man, special)
    for exp in range(1, 7)
    for man in range(7 - exp + 1)
    for special in ("ieee", "fn", "fnuz", "finite")
    if not (special == "ieee" and (exp < 2 or man < 1)) and not (special == "fn" and exp + man < 2)
]
SCALARS: list[Format] = [
    *(
        Fixed(width, frac, signed)
        for width in (1, 2, 3, 5, 8, 12, 16)
        for frac in (-2, 3, 20)
        for signed in (True, False)
    ),
    *(Int(width) for width in (2, 3, 4, 8, 12, 16)),
    *(Int(8, power=True), Int(16, power=True), Int(4, full=True), Int(8, zero="int"), Int(16, zero="real")),
    *(Minifloat(exp, man, special=special) for exp, man, special in SMALL_FLOATS + WIDE_FLOATS),  # type: ignore[arg-type]
    *(Minifloat(4, 3, bias=bias) for bias in (-64, 0, 192)),
    *(Log(width) for width in range(2, 10)),
    *(Log(4, bias) for bias in (-64, 255)),
    Ternary(),
]
BLOCKS: list[BlockFormat] = [
    *(MXInt(width, 4) for width in range(2, 9)),
    *(MXFP(exp, man, 4) for exp, man in ((4, 3), (5, 2), (3, 2), (2, 3), (2, 1), (1, 2), (3, 4))),
    *(MXFP(2, 1, 4, rule=rule) for rule in ("ceil", "rceil", "even")),  # type: ignore[arg-type]
    *(BFP(width, 4) for width in range(3, 9)),
    *(BFP(width, 4, rule="floor") for width in range(2, 9)),
    *(BlockMinifloat(width, exp, 4) for width, exp in ((8, 4), (8, 7), (6, 2), (4, 3), (3, 1))),
    *(BlockLog(width, 4) for width in range(2, 9)),
]
TABLES: list[TableBlocks] = [NormalFloat(width, 4) for width in range(2, 9)] + [
    Codebook((-1.0, -0.5, 0.0, 0.25, 1.0), 4)
]


def params(fmt: Format) -> QuantParams:
    """Return parameters as calibration would, on data that span the range."""
    return fmt.calibrate(torch.linspace(-3, 5, 41))


@pytest.mark.parametrize("fmt", SCALARS, ids=str)
def test_every_scalar_code_comes_back(fmt: Format) -> None:
    low, high = fmt.code_range()
    codes = torch.arange(low, high + 1)
    values = fmt.decode(Code(codes), params(fmt))
    numbers = torch.isfinite(values)
    assert torch.equal(fmt.encode(values[numbers], params(fmt)).mantissa, codes[numbers])
    assert len(values[numbers].unique()) >= int(numbers.sum()) - 1  # but for the two signs of zero all differ


@pytest.mark.parametrize(
    "fmt", [f for f in SCALARS if isinstance(f, Minifloat) and f.special in ("ieee", "fn")], ids=str
)
def test_infinity_and_the_canonical_nan_come_back(fmt: Minifloat) -> None:
    keep = Minifloat(fmt.exp, fmt.man, fmt.bias, fmt.special, overflow="special", nan="encode")
    values = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    codes = keep.encode(values)
    again = keep.decode(codes)
    if fmt.special == "ieee":
        assert torch.equal(again[:2], values[:2])
    assert bool(torch.isnan(again[2]))
    assert torch.equal(keep.encode(again).mantissa, codes.mantissa)


@pytest.mark.parametrize("sign", [-1, 1])
def test_both_binary_codes_come_back(sign: int) -> None:
    code = Code(torch.tensor([sign]))
    assert Binary().encode(Binary().decode(code, params(Binary())), params(Binary())).mantissa == sign


def anchored(fmt: Format, most: float = torch.inf) -> Tensor:
    """Return blocks of four: the greatest number up to ``most``, each number of at most that size, twice the least."""
    values = fmt.values()
    size = torch.where(torch.isfinite(values) & (values.abs() <= most), values.abs(), -1.0)
    codes = (size >= 0).nonzero().flatten() + fmt.code_range()[0]
    top = torch.where(size == size.max(), values, -torch.inf).argmax() + fmt.code_range()[0]
    least = torch.where(size < 0, torch.inf, size).argmin() + fmt.code_range()[0]
    return torch.stack([top.expand_as(codes), codes, least.expand_as(codes), least.expand_as(codes)], 1)


@pytest.mark.parametrize("fmt", BLOCKS, ids=str)
def test_every_block_code_comes_back_under_every_exponent(fmt: BlockFormat) -> None:
    # under the rule ceil a maximum above the top power of two asks for the next exponent: codes beyond it stay unused
    power = isinstance(fmt, MXFP) and fmt.rule == "ceil"
    mantissa = anchored(fmt, 2.0**fmt.element.top_exponent if power else torch.inf)  # type: ignore[attr-defined]
    for exponent in (OCP_BASE, OCP_BASE + 1, -20, 0, 1, 63, OCP_BASE + fmt.span):
        code = Code(mantissa, torch.full((len(mantissa), 1), exponent))
        again = fmt.encode(fmt.decode(code))
        assert again.exponent is not None
        assert torch.equal(again.exponent, code.exponent)
        assert torch.equal(again.mantissa, code.mantissa)


@pytest.mark.parametrize("fmt", TABLES, ids=str)
def test_every_table_code_comes_back_under_every_scale(fmt: TableBlocks) -> None:
    mantissa = anchored(fmt)
    for scale in (2.0**-100, 1e-3, 1.0, 3.7, 1e30):
        stored = scale_code(torch.tensor(scale).double(), "fp32")
        code = Code(mantissa, scale=stored.expand(len(mantissa), 1))
        again = fmt.encode(fmt.decode(code))
        assert again.scale is not None
        assert torch.equal(again.scale, code.scale)
        assert torch.equal(again.mantissa, code.mantissa)


@pytest.mark.parametrize("tensor_scale", [1.0, 0.3, 2.0**-40])
def test_every_nvfp4_code_comes_back_under_every_scale(tensor_scale: float) -> None:
    fmt = NVFP4(4)
    mantissa = anchored(fmt)
    given = QuantParams(scale=torch.tensor(tensor_scale).double())
    for scale in range(8, 127):  # the normal numbers of E4M3
        code = Code(mantissa, scale=torch.full((len(mantissa), 1), scale))
        again = fmt.encode(fmt.decode(code, given), given)
        assert again.scale is not None
        assert torch.equal(again.scale, code.scale)
        assert torch.equal(again.mantissa, code.mantissa)


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("float8_e4m3fn", Minifloat(4, 3)),
        ("float8_e5m2", Minifloat(5, 2)),
        ("float8_e4m3", Minifloat(4, 3, special="ieee")),
        ("float8_e3m4", Minifloat(3, 4, special="ieee")),
        ("float8_e4m3fnuz", Minifloat(4, 3, special="fnuz")),
        ("float8_e5m2fnuz", Minifloat(5, 2, special="fnuz")),
        ("float8_e4m3b11fnuz", Minifloat(4, 3, bias=11, special="fnuz")),
        ("float6_e2m3fn", Minifloat(2, 3)),
        ("float6_e3m2fn", Minifloat(3, 2)),
        ("float4_e2m1fn", Minifloat(2, 1)),
        ("bfloat16", Minifloat(8, 7, special="ieee")),
    ],
)
def test_decode_tables_equal_ml_dtypes(name: str, fmt: Minifloat) -> None:
    raw = np.arange(1 << fmt.width, dtype=np.uint16 if fmt.width > 8 else np.uint8)
    with np.errstate(invalid="ignore"):  # numpy warns of NaN
        theirs = raw.view(getattr(ml_dtypes, name)).astype(np.float64)
    ours = fmt.values().numpy()
    np.testing.assert_array_equal(ours, theirs)
    number = ~np.isnan(theirs)
    assert np.array_equal(np.signbit(ours[number]), np.signbit(theirs[number]))


def test_scales_equal_the_eight_bit_exponent_of_ml_dtypes() -> None:
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    np.testing.assert_array_equal(scale_value(torch.arange(256), "e8m0").numpy(), theirs)
