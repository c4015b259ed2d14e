"""Equalization: rows before and columns behind have one range, and the block gives what it gave."""

from __future__ import annotations

import pytest
import torch

from mase.calib.absorb import pairs
from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.equalize import Equalize
from tests.ptq.blocks import llama_block
from tests.ptq.test_smoothquant import unchanged


def test_ranges_meet_and_outputs_stay() -> None:
    block = llama_block()
    with torch.no_grad():
        block.graph.tensors["feed.up.weight"][::3] *= 30
    block.wanted = []
    block.__post_init__()
    Equalize(rounds=2).run(block)
    (pair,) = [pair for pair in pairs(block.graph) if pair.absorber == "feed_up"]
    rows = block.graph.tensors["feed.up.weight"].abs().amax(1)
    columns = block.graph.tensors["feed.down.weight"].abs().amax(0)
    assert torch.allclose(rows, columns, rtol=1e-4)
    assert unchanged(block)
    assert not pair.norm


def test_it_needs_no_data_and_no_norm() -> None:
    assert not Equalize().calibrates
    block = llama_block()
    norm = block.graph.tensors["norm1.weight"].clone()
    Equalize().run(block)
    assert torch.equal(block.graph.tensors["norm1.weight"], norm)
    with pytest.raises(ConfigError, match=r"equalize\.rounds: found 0; allowed is a whole number from 1 to 100"):
        Equalize(rounds=0)
    assert METHODS["equalize"] is Equalize
