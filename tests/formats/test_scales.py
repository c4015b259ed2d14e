"""Stored scales: rounding to their type, never to zero, and their bit patterns."""

from __future__ import annotations

import pytest
import torch

from mase.formats.scales import SCALE_BITS, SCALE_TYPES, round_scale, scale_code, scale_value

WIDE = torch.ldexp(torch.linspace(1, 2, 301, dtype=torch.float64), torch.arange(-150, 151))


@pytest.mark.parametrize("kind", SCALE_TYPES)
def test_rounding_is_done_once_and_never_gives_zero(kind: str) -> None:
    stored = round_scale(WIDE, kind)
    assert torch.equal(round_scale(stored, kind), stored)
    assert bool(((stored > 0) & torch.isfinite(stored)).all())
    assert torch.equal(round_scale(-WIDE, kind), -stored)
    assert float(round_scale(torch.tensor(0.0, dtype=torch.float64), kind)) > 0


@pytest.mark.parametrize("kind", SCALE_TYPES)
def test_patterns_stand_for_the_stored_scales(kind: str) -> None:
    stored = round_scale(WIDE, kind)
    codes = scale_code(stored, kind)
    assert bool(((codes >= 0) & (codes < 1 << SCALE_BITS[kind])).all()) or kind == "short"  # held in float32
    assert torch.equal(scale_value(codes, kind), stored)


def test_types_by_hand() -> None:
    x = torch.tensor([0.3], dtype=torch.float64)
    assert round_scale(x, "e8m0") == 0.5  # up: nothing clips that did not before
    assert round_scale(x, "e4m3") == 0.3125
    assert round_scale(x, "bf16") == x.to(torch.bfloat16)
    assert round_scale(x, "fp16") == x.to(torch.float16)
    assert round_scale(x, "fp32") == x.to(torch.float32)
    assert round_scale(x, "short") == round(0.3 * 2**16) / 2**16  # 15 digits: 0.3 lies in [2**-2, 2**-1)
