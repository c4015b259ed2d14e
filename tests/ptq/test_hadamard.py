"""Rotation: orthogonal, spreads outliers of values, and leaves the block's output."""

from __future__ import annotations

import pytest
import torch

from passes.ptq.base import METHODS
from passes.ptq.hadamard import Hadamard, rotation
from tests.ptq.blocks import llama_block
from tests.ptq.test_smoothquant import unchanged


@pytest.mark.parametrize("size", [1, 2, 8, 64, 6, 48])
def test_rotations_are_orthogonal(size: int) -> None:
    turn = rotation(size, 3)
    assert torch.allclose(turn @ turn.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert torch.equal(turn, rotation(size, 3))
    if size & (size - 1) == 0:
        assert torch.allclose(turn.abs(), torch.full_like(turn, size**-0.5))


@pytest.mark.parametrize("kv", [1, 2, 4])
def test_an_outlier_spreads_over_its_head_and_outputs_stay(kv: int) -> None:
    block = llama_block(kv=kv)
    with torch.no_grad():
        block.graph.tensors["attention.value.weight"][3] *= 50
    block.wanted = []
    block.__post_init__()

    def peak() -> float:
        rows = block.graph.tensors["attention.value.weight"].norm(dim=1)
        return float(rows.max() / rows.mean())

    before = peak()
    Hadamard().run(block)
    assert peak() < 0.5 * before
    assert unchanged(block)


def test_the_seed_decides() -> None:
    assert not torch.equal(rotation(8, 0), rotation(8, 1))
    assert METHODS["hadamard"] is Hadamard and not Hadamard().calibrates
