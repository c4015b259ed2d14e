"""SliM-LLM: widths by hand, their average, the search for scales against a plain one, less error than GPTQ's loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.gptq import Gptq
from passes.ptq.slim_llm import SlimLlm, choose_widths, fitted, one_bit, rounder, some
from tests.ptq.fake import check_laws, inputs, layer, relative_error


def rounded(weight: Tensor, widths: list[int], group: int) -> Tensor:
    """Round groups by their extremes, one bit as mean and deviation, in plain loops."""
    out = torch.empty_like(weight)
    for g, bits in enumerate(widths):
        for row, result in zip(weight, out, strict=True):
            w = row[g * group : (g + 1) * group]
            if bits == 1:
                mean, size = w.mean(), w.abs().mean()
                result[g * group : (g + 1) * group] = torch.where(w > mean, mean + size, mean - size)
                continue
            low, high, top = w.min().clamp(max=0), w.max().clamp(min=0), 2**bits - 1
            scale = ((high - low) / top).half().float()
            zero = (-low / scale).round().clamp(0, top)
            result[g * group : (g + 1) * group] = ((w / scale).round().add(zero).clamp(0, top) - zero) * scale
    return out


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_widths_equal_every_candidate_tried(bits: int, seed: int) -> None:
    one = layer(24, 80, seed=seed)
    x, group = inputs(64, 80, seed=seed), 8
    salience = one.weight.square() * one.seen.autocorrelation().diagonal().float()
    found = choose_widths(one.weight, salience, x, bits, group)
    order = salience.view(24, 10, group).sum((0, 2)).argsort().tolist()
    p = torch.softmax(x @ one.weight.T, -1).clamp(min=1e-6)
    scores = {}
    for k in range(1, 5):
        widths = [bits] * 10
        for i in order[:k]:
            widths[i] -= 1
        for i in order[-k:]:
            widths[i] += 1
        q = torch.softmax(x @ rounded(one.weight, widths, group).T, -1).clamp(min=1e-6)
        scores[k] = (float((q * (q / p).log()).sum(-1).mean()), widths)
    assert found == min(scores.values())[1]
    assert sum(found) == 10 * bits


def test_few_groups_are_all_alike_and_a_short_one_keeps_the_average() -> None:
    one = layer(16, 80)
    x = inputs(32, 80)
    assert choose_widths(one.weight, one.weight.square(), x, 2, 32) == [2, 2, 2]
    assert choose_widths(one.weight, one.weight.square(), x, 2, 15)[-1] == 2


def test_scales_are_the_best_of_all_factors() -> None:
    w = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    salience = torch.rand(6, 32, generator=torch.Generator().manual_seed(1)) ** 8
    off = (salience - salience.mean()).abs() > 2 * salience.std()
    salient = salience >= salience[off].min()
    assert 0 < int(salient.sum()) < 30
    scale, zero = fitted(w, salience, 2, 5.0)
    errors = (rounder(scale, zero, 2)(w.T, 0).T - w).abs().pow(2.4) * torch.where(salient, 5.0, 1.0)
    for factor in torch.linspace(0.9, 1.1, 101):
        low, high = w.amin(1).clamp(max=0) * factor, w.amax(1).clamp(min=0) * factor
        s = ((high - low) / 3).half().float()
        z = (-low / s).round().clamp(0, 3)
        q = ((w / s[:, None]).round() + z[:, None]).clamp(0, 3).sub(z[:, None]) * s[:, None]
        other = (q - w).abs().pow(2.4) * torch.where(salient, 5.0, 1.0)
        assert bool((errors.sum(1) <= other.sum(1) * (1 + 1e-5)).all())


def test_one_bit_is_mean_and_deviation() -> None:
    w = torch.tensor([[1.0, 2.0, 4.0, -3.0]])
    scale, offset = one_bit(w)
    assert rounder(scale, offset, 1)(w.T, 0).T.tolist() == [[-1.5, 3.5, 3.5, -1.5]]


@pytest.mark.parametrize("bits", [2, 3])
def test_laws_bits_and_error(bits: int) -> None:
    one = layer(64, 256)
    found = check_laws(SlimLlm(bits, 32), one)
    assert len(found.pieces) > 1
    assert found.paper_bits() == bits * found.elements
    gptq = Gptq(f"int{bits}g32a_fp16", act_order=False, static_groups=False).layer(one)
    assert found.stored_bits() < gptq.stored_bits() * 1.12  # a real offset of one bit is longer than a zero point
    assert relative_error(one, found.dense()) < 0.7 * relative_error(one, gptq.dense())


@pytest.mark.parametrize(("features", "group"), [(20, 16), (70, 16), (5, 128)])
def test_short_groups(features: int, group: int) -> None:
    check_laws(SlimLlm(2, group), layer(12, features))


def test_tokens_are_evenly_drawn() -> None:
    assert some(torch.arange(10)[:, None], 4).flatten().tolist() == [0, 3, 6, 9]
    assert len(some(torch.zeros(3, 1), 4)) == 3


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"slim_llm\.bits: found 1; allowed is a whole number from 2 to 8"):
        SlimLlm(1)
    with pytest.raises(ConfigError, match=r"slim_llm\.weight: found 0\.5; allowed is a number from 1"):
        SlimLlm(weight=0.5)
    assert METHODS["slim_llm"] is SlimLlm
