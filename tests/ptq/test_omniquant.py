"""OmniQuant: learned ranges and factors, better than rounding to nearest; what is packed is what was scored."""

from __future__ import annotations

import pytest
import torch

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.omniquant import OmniQuant, _Ranges
from passes.ptq.rtn import Rtn
from tests.ptq.blocks import llama_block
from tests.ptq.layers import layer
from tests.ptq.test_smoothquant import unchanged


@pytest.mark.parametrize("text", ["int3g16a_fp16", "int2g32a_fp16"])
def test_ranges_and_factors_lower_the_error(text: str) -> None:
    plain, ranges, both = llama_block(), llama_block(), llama_block()
    Rtn(text).run(plain)
    OmniQuant(text, epochs=8, batch=4, lwc_lr=0.1, let=False).run(ranges)
    OmniQuant(text, epochs=8, batch=4, lwc_lr=0.05).run(both)
    assert ranges.error() < plain.error()
    assert both.error() < 0.9 * plain.error()
    assert unchanged(both)


def test_packed_weights_are_what_was_scored() -> None:
    own = layer(6, 40)
    part = _Ranges(own, "int3g16a_fp16")
    with torch.no_grad():
        for i, logit in enumerate(part.logits):
            logit.copy_(torch.randn(logit.shape, generator=torch.Generator().manual_seed(i)) + 1)
    scored, packed = part.rounded(own.weight).detach(), part.packed(own.weight).dense()
    assert (torch.isclose(scored, packed, rtol=1e-5, atol=1e-7)).float().mean() > 0.99  # the others lie on a tie


def test_ranges_start_almost_whole() -> None:
    own = layer(6, 40)
    step, _ = _Ranges(own, "int4c" + "a").steps(own.weight)
    whole = (own.weight.amax(1) - own.weight.amin(1)) / 15
    assert torch.allclose(step[:, 0] / whole, torch.sigmoid(torch.tensor(4.0)), atol=1e-5)


def test_bad_fields_and_formats_are_refused() -> None:
    for fields, text in (
        ({"epochs": 0}, "epochs: found 0; allowed is a whole number from 1 to 1000"),
        ({"lwc_lr": 0}, "lwc_lr: found 0; allowed is a number above 0, at most 1"),
        ({"let_lr": 2}, "let_lr: found 2"),
    ):
        with pytest.raises(ConfigError, match=rf"omniquant\.{text}"):
            OmniQuant(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"omniquant\.format: format mxfp4 has no ranges to learn"):
        OmniQuant("mxfp4")
    assert METHODS["omniquant"] is OmniQuant
