"""GPTQ: nearest without correlation, less output error with it, an independent column loop, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase.calib.statistics import Statistics
from mase.errors import ConfigError
from mase.formats import parse
from passes.ptq.base import METHODS, Layer
from passes.ptq.gptq import Gptq
from passes.ptq.groups import groups_of
from passes.ptq.rtn import Rtn
from tests.ptq.layers import FORMATS, layer, tokens


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("ordered", [False, True])
def test_independent_inputs_of_equal_power_give_the_nearest(text: str, ordered: bool) -> None:
    own = layer()
    seen = Statistics(tokens=1000, gram=torch.eye(80, dtype=torch.float64))
    found = Gptq(text, act_order=ordered, static_groups=ordered).layer(replace(own, seen=seen))
    groups = groups_of(parse(text), own.weight, "x")
    assert torch.equal(
        found.dense().double(), groups.nearest(own.weight, groups.fit(own.weight)).values().float().double()
    )


@pytest.mark.parametrize("text", FORMATS)
def test_output_error_is_below_that_of_rtn(text: str) -> None:
    own = layer()
    plain = own.output_error(Rtn(text).layer(own).dense())
    for options in ({}, {"act_order": False, "static_groups": False}, {"static_groups": False}):
        found = Gptq(text, **options).layer(own)  # type: ignore[arg-type]
        assert own.output_error(found.dense()) < 0.8 * plain, options


def by_hand(weight: Tensor, hessian: Tensor, size: int, bits: int) -> Tensor:
    """Return the asymmetric GPTQ result by the definition: one column at a time, the inverse updated by elimination."""
    h = hessian.double().clone()
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    inverse, w, out = torch.linalg.inv(h), weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for c in range(len(h)):
        if c % size == 0:
            part = w[:, c : c + size]
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            step = (high - low) / (2**bits - 1)
            zero = (-low / step).round()
        out[:, c] = step * (((w[:, c] / step).round() + zero).clamp(0, 2**bits - 1) - zero)
        error = (w[:, c] - out[:, c]) / inverse[c, c]
        w -= error.unsqueeze(1) * inverse[c]
        inverse -= inverse[:, c : c + 1] * inverse[c : c + 1] / inverse[c, c]
    return out


def test_it_equals_optimal_brain_surgery_column_by_column() -> None:
    own = layer(8, 48)
    found = Gptq("int4g16a_fp32", act_order=False, static_groups=False).layer(own).dense()
    expected = by_hand(own.weight, own.seen.hessian(), 16, 4)
    close = (found - expected).abs() < 1e-3 * expected.abs().max()
    assert close.float().mean() > 0.98  # scales have 15 digits there, and a tie may fall the other way


def test_columns_of_several_blocks_hang_together() -> None:
    x = tokens(300, 900)
    own = layer(16, 300, x)
    plain = own.output_error(Rtn("int3g64a").layer(own).dense())
    assert own.output_error(Gptq("int3g64a").layer(own).dense()) < 0.6 * plain  # 300 is 4 groups of 64 and a short one


def test_order_is_stored_only_where_groups_follow_it() -> None:
    own = layer()
    static, dynamic = Gptq("int4g16a").layer(own), Gptq("int4g16a", static_groups=False).layer(own)
    assert static.pieces[0].columns is None
    assert dynamic.pieces[0].columns is not None
    assert dynamic.stored_bits() == static.stored_bits() + 80 * 7


def test_inputs_that_are_always_zero_get_weights_of_zero() -> None:
    x = tokens(80)
    x[:, 5] = x[:, 40] = 0
    found = Gptq("int4g16a").layer(layer(x=x)).dense()
    assert found[:, [5, 40]].abs().sum() == 0
    assert bool(torch.isfinite(found).all())


def test_a_searched_step_helps_at_two_bits() -> None:
    own = layer()
    errors = [own.output_error(Gptq("int2g16f_fp16", search=s).layer(own).dense()) for s in (False, True)]
    assert errors[1] < errors[0]


def test_bad_input_is_named() -> None:
    own = layer()
    with pytest.raises(ConfigError, match=r"gptq\.damp: found 0; allowed is a number above 0, at most 1"):
        Gptq(damp=0)
    with pytest.raises(ConfigError, match=r"gptq: block\.linear: needs calibration data \(gram\)"):
        Gptq().layer(Layer(own.path, own.weight))
    with pytest.warns(UserWarning, match="40 tokens for 80 inputs; pass at least 80"):
        Gptq("int4g16a").layer(layer(x=tokens(80, 40)))
    assert own.seen.gram is not None
    broken = Statistics(tokens=9000, gram=own.seen.gram * torch.nan)
    with pytest.raises(ConfigError, match="the Hessian of its inputs holds NaN or infinity"):
        Gptq("int4g16a").layer(replace(own, seen=broken))
    apart = own.seen.gram + 1e12 * (1 - torch.eye(len(own.seen.gram), dtype=torch.float64))
    with pytest.raises(ConfigError, match="the Hessian of its inputs is singular; more calibration tokens"):
        Gptq("int4g16a").layer(replace(own, seen=Statistics(tokens=9000, gram=apart)))
    assert METHODS["gptq"] is Gptq


@pytest.mark.parametrize("options", [{}, {"search": True}, {"static_groups": False}, {"format": "nvfp4"}])
def test_weights_of_dead_columns_stretch_no_step(options: dict[str, object]) -> None:
    x = tokens(80)
    x[:, 5:9] = 0
    own, options = layer(x=x), {"format": "int4g16a", **options}
    wild = own.weight.clone()
    wild[:, 5:9] *= 100
    plain, found = (Gptq(**options).layer(replace(own, weight=w)).dense() for w in (own.weight, wild))  # type: ignore[arg-type]
    assert torch.equal(plain, found) and not bool(found[:, 5:9].any())
