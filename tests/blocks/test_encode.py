"""An encoder gives the minifloat nearest to each integer: encode's, apart from the sign of zero."""

from __future__ import annotations

import pytest
import torch

from mase.blocks.block_normalise import normalise, normalise_scalar
from mase.blocks.encode import Encode
from mase.formats import Code, QuantParams, parse
from mase.testing import count_port, module_parameters

FORMATS = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "e3m0", "e1m2", "e8m7", "e4m3fnuz", "e5m2b20")
BLOCKS = (
    *("bfp4b4e4", "bfp5b2e3_xfloor", "bfp4b4e4_tc", "mxfp4b4", "mxfp8e4m3b4_xceil", "mxfp8e5m2b2", "mxfp4e3m0b4"),
    *("bm6e2b4s3", "bm4e3b2s2"),
)


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("finer", [-3, 0, 1, 4, 9])
def test_it_is_encode_of_every_integer(text: str, finer: int) -> None:
    fmt = parse(text)
    grid = fmt.grid(QuantParams(), "here")
    t = torch.arange(-(1 << 11), 1 << 11).reshape(1, 2, -1)
    unit = grid.unit - finer
    (found,) = Encode(2, t.shape[-1], 4, 13, unit, grid).compute(Code(t))
    expected = fmt.encode(t.double() * 2.0**unit).mantissa
    zero = fmt.decode(Code(expected)) == 0
    assert torch.equal(torch.where(zero, 0, expected), found.mantissa)
    assert grid.pattern is not None
    row = t.flatten().tolist()
    assert [grid.pattern.scalar(x, finer) for x in row] == found.mantissa.flatten().tolist()


@pytest.mark.parametrize("text", BLOCKS)
@pytest.mark.parametrize("unit", [-9, -2, 3])
def test_blocks_are_those_of_encode(text: str, unit: int) -> None:
    fmt, draws = parse(text), torch.Generator().manual_seed(3)
    wide = torch.randint(-(1 << 12), 1 << 12, (200, 12), generator=draws)
    t = wide >> torch.randint(0, 13, (200, 1), generator=draws)
    t[:20] = 1 << torch.randint(0, 12, (20, 12), generator=draws)  # powers of two alone
    params = QuantParams(base=torch.tensor(-5)) if fmt.calibrate(t.double()).base != -127 else QuantParams()
    grid, expected = fmt.grid(params, "here"), fmt.encode(t.double() * 2.0**unit, params)
    found = normalise(t.double(), unit, grid)
    assert found.exponent is not None
    assert expected.exponent is not None
    assert torch.equal(found.exponent, expected.exponent)
    zero = fmt.decode(expected, params) == 0
    assert torch.equal(found.mantissa, torch.where(zero, 0, expected.mantissa))
    for i in range(0, 200, 9):
        assert normalise_scalar(t[i].tolist(), unit, grid) == (found.mantissa[i].tolist(), found.exponent[i].tolist())


def test_parameters_and_beats() -> None:
    block = Encode(3, 7, 2, 9, -4, parse("e3m2").grid(QuantParams(), "here"))
    assert set(block.sv_params()) == set(module_parameters("mase_encode"))
    (actor,) = block.schedule().actors
    assert [count_port(actor.body, port) for port in ("in", "out")] == [12, 12]
    assert block.work().fifos == ((2 * 6 + 1, 2),)
