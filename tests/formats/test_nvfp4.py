"""NVFP4: laws and values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mase.errors import FormatError, UnsupportedOp
from mase.formats import nvfp4
from mase.formats.base import Code, QuantParams
from mase.formats.nvfp4 import ELEMENT, NVFP4, SCALE
from mase.testing import FormatLaws


class TestTwoLevels(FormatLaws):
    fmt = NVFP4()
    nearest = False  # a reciprocal in float32 may move a tie; see below
    scales = True


class TestOneLevel(FormatLaws):
    fmt = NVFP4(block=8, two_level=False)
    axis = 0
    nearest = False


def test_block_by_hand() -> None:
    x = torch.tensor([6.0, 3.0, -1.0, 0.2] + [0.0] * 12 + [448 * 6.0] + [0.0] * 15)
    fmt = NVFP4()
    params = fmt.calibrate(x)
    code = fmt.encode(x, params)
    assert params.scale == 1.0
    assert code.scale is not None
    assert code.scale.tolist() == [0b0_0111_000, 0b0_1111_110]  # 1 and 448 in E4M3
    assert code.mantissa[:4].tolist() == [7, 5, 10, 0]
    assert code.mantissa[16] == 7


def test_ties_follow_the_reciprocals_in_float32() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        tensor_scale = np.float32(draw.uniform(0.5, 2))
        top = np.float32(draw.uniform(50, 2000))
        code = NVFP4().encode(
            torch.full((1, 16), float(top)), given := QuantParams(scale=torch.tensor(float(tensor_scale)).double())
        )
        assert code.scale is not None
        scale = np.float32(SCALE.reals(code.scale)[0, 0])
        reciprocal = np.float32(1) / tensor_scale / scale
        ties = np.float32([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]) / reciprocal
        x = np.concatenate([ties, np.nextafter(ties, np.float32(0)), [top, top]]).astype(np.float32)
        mantissa = NVFP4().encode(torch.from_numpy(x).unsqueeze(0), given).mantissa
        products = torch.from_numpy(np.minimum(x * reciprocal, np.float32(6)))
        assert torch.equal(mantissa[0], ELEMENT.encode(products).mantissa)


def test_off_a_tie_the_nearest_element_is_taken() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    fmt = NVFP4()
    params = fmt.calibrate(x)
    code = fmt.encode(x, params)
    errors = [
        (fmt.decode(Code(torch.full_like(code.mantissa, m), scale=code.scale), params) - x).abs() for m in range(16)
    ]
    chosen = (fmt.decode(code, params) - x).abs()
    assert bool((chosen <= torch.stack(errors).amin(0) * (1 + 1e-6)).all())  # float32 reciprocal: 2**-24, twice


def test_least_block_scale_is_the_least_normal() -> None:
    x = torch.zeros(2, 16)
    x[0, 0], x[1, 0] = 2688.0, 1e-3
    code = NVFP4().encode(x)
    assert code.scale is not None
    assert code.scale.tolist() == [[126], [8]]


def test_stored_bits_by_hand() -> None:
    assert NVFP4().bits((64, 64)) == 4.5 + 32 / 4096
    assert NVFP4(two_level=False).bits((64, 64)) == 4.5


def test_missing_scales_and_empty_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="nvfp4: block is 0"):
        NVFP4(block=0)
    with pytest.raises(FormatError, match="nvfp4: decode needs a scale"):
        NVFP4().decode(NVFP4().encode(torch.ones(16)))


@pytest.mark.parametrize("top", [2.0**-149, 1e-38, 7e-36, 1e-35, 3.4e38])
def test_tensors_of_any_magnitude_have_finite_values(top: float) -> None:
    """The tensor's scale stays where the reciprocals of all steps are float32 numbers, and all values too."""
    x, fmt = torch.tensor([0.0, top, -top / 2, *[top / 3] * 13]), NVFP4()
    params = fmt.calibrate(x)
    y = fmt.quantize(x, params)
    assert torch.equal(y, fmt.decode(fmt.encode(x, params), params).to(torch.float32))
    assert bool(torch.isfinite(y).all())
    assert float((y - x).abs().max()) <= max(top / 8, 2.0**-129)  # half a step: of E2M1 at 4, or of the least one


def test_a_tensor_scale_beyond_its_limits_acts_as_the_limit() -> None:
    x, fmt = torch.tensor([0.0, 1e-38, -2e-39]), NVFP4()
    beyond = QuantParams(scale=torch.tensor(2.0**-140, dtype=torch.float64))
    limit = QuantParams(scale=torch.tensor(2.0**-121, dtype=torch.float64))
    assert torch.equal(fmt.quantize(x, beyond), fmt.quantize(x, limit))
    assert torch.equal(fmt.decode(fmt.encode(x, beyond), beyond), fmt.decode(fmt.encode(x, limit), limit))


def test_weights_take_any_scale_and_pay_for_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, w = NVFP4(4), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    params = QuantParams(scale=torch.tensor(0.1, dtype=torch.float64), axis=-1)  # not a float32
    fmt.weight_grid(params, "here")  # the bounds of one scale, once a process
    monkeypatch.setattr(nvfp4, "bounds", lambda *_: pytest.fail("bounds of weights"))
    found = fmt.constants(w, params, "here")
    assert found.grid == fmt.weight_grid(params, "here")
    real = found.grid.integers(found.code) * 2.0**found.grid.unit * float(np.float32(0.1))
    expected = fmt.quantize(w.double(), params)
    assert bool(((real - expected).abs() <= 2.0**-23 * expected.abs()).all())  # float32 rounds both products


def test_a_stream_takes_float32_scales_alone_and_says_so() -> None:
    params = QuantParams(scale=torch.tensor(0.1, dtype=torch.float64))
    with pytest.raises(UnsupportedOp, match=r"here: .*nvfp4.*scale 0.1 .*allowed are float32.*nearest is 0.100000001"):
        NVFP4().grid(params, "here")
    nearest = replace(params, scale=torch.tensor(np.float32(0.1)).double())
    assert NVFP4().grid(nearest, "here").scales is not None
