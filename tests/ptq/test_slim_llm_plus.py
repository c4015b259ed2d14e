"""SliM-LLM+: it starts as rounding to nearest in the widths of SliM-LLM, and learns to be nearer to the float block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.columns import Factor
from passes.ptq.rtn import Rtn
from passes.ptq.slim_llm import choose_widths, nearest, some
from passes.ptq.slim_llm_plus import SlimLlmPlus, _Ranges
from tests.ptq.blocks import OneBlock, llama_block


def done(method: SlimLlmPlus | Rtn) -> OneBlock:
    block = llama_block()
    method.run(block)
    return block


def test_ranges_start_at_the_extremes_and_round_as_they_are_stored() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    ranges = _Ranges(weight, [1, 2, 3, 2, 4], 8)
    with torch.no_grad():
        for logit in ranges.logits:
            logit[:, ~ranges.one] = 30.0
    found = ranges.rounded().detach()
    wanted = torch.cat([nearest(w, bits, 8) for w, bits in zip(weight.split(8, 1), [1, 2, 3, 2, 4], strict=True)], 1)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.equal(ranges.packed().dense(), found)
    found = ranges.rounded()
    found.square().sum().backward()
    for logit in ranges.logits:
        assert logit.grad is not None and bool(torch.isfinite(logit.grad).all())


def test_widths_are_those_of_slim_llm() -> None:
    method = SlimLlmPlus(2, 8, epochs=1)
    block = done(method)
    for layer in block.layers(method.needs):
        factor = Factor.of(layer.seen.hessian())
        x = some(layer.seen.need("inputs", ""), 1024)
        wanted = choose_widths(layer.weight, factor.salience(layer.weight), x, 2, 8)
        pieces = block.done[layer.path].pieces
        found = {int(str(p.format)[3]): len(p.columns) if p.columns is not None else 0 for p in pieces}
        if len(found) > 1:
            assert found == {bits: 8 * wanted.count(bits) for bits in set(wanted)}


@pytest.mark.filterwarnings("ignore:.*tokens for")  # few tokens: the figures do not matter here
def test_it_learns_and_beats_rounding_to_nearest() -> None:
    before, after = done(SlimLlmPlus(2, 8, epochs=1, rate=0.0)), done(SlimLlmPlus(2, 8, epochs=10, rate=0.1, batch=4))
    assert after.error() < 0.8 * before.error()
    assert after.error() < 0.6 * done(Rtn("int2g8a_fp16")).error()
    bits = [sum(w.stored_bits() for w in block.done.values()) for block in (before, after)]
    assert bits[0] == bits[1]


def test_the_same_seed_gives_the_same_bits() -> None:
    method = SlimLlmPlus(2, 8, epochs=2, rate=0.1, batch=4)
    one, two, other = done(method), done(method), done(replace(method, seed=1))
    assert all(torch.equal(one.done[path].dense(), two.done[path].dense()) for path in one.done)
    assert any(not torch.equal(one.done[path].dense(), other.done[path].dense()) for path in one.done)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"slim_llm_plus\.bits: found 9; allowed is a whole number from 2 to 8"):
        SlimLlmPlus(9)
    with pytest.raises(ConfigError, match=r"slim_llm_plus\.epochs: found 0; allowed is a whole number from 1"):
        SlimLlmPlus(epochs=0)
    assert METHODS["slim_llm_plus"] is SlimLlmPlus
