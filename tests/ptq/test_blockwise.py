"""The run of a block on chosen weights: together or one by one, with the same numbers."""

from __future__ import annotations

import pytest
import torch

from mase.errors import ConfigError
from passes.ptq.blockwise import Runner, batches, named, place
from tests.ptq.blocks import OneBlock, llama_block


def test_samples_run_together_as_they_run_alone() -> None:
    block = llama_block()
    runner = Runner(block, "x")
    assert runner.together
    ((inputs, target),) = runner.batch([0, 3, 5])
    assert [tuple(x.shape) for x in inputs] == [(3, 16, 32), (16, 8), (16, 8)]
    together = runner.run({}, inputs)
    assert torch.allclose(together, target, atol=1e-5)
    assert runner.loss({}, [0, 3, 5]) < 1e-10


def test_samples_of_other_lengths_run_alone() -> None:
    block = llama_block(samples=3)
    x, cos, sin = block.given[1]
    block.given[1] = x[:, :8], cos[:8], sin[:8]
    runner = Runner(OneBlock(block.graph, [block.given[0]]), "x")
    assert not runner.together and len(runner.batch([0])) == 1


def test_gradients_reach_the_weights() -> None:
    block = llama_block()
    runner = Runner(block, "x")
    weights = {path: w.clone().requires_grad_() for path, w in named(block.layers()).items()}
    ((inputs, _),) = runner.batch([0, 1])
    runner.run(weights, inputs).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in weights.values())


def test_places_of_layers_and_experts() -> None:
    graph = llama_block().graph
    assert place(graph, "feed.down") == ("feed.down.weight", None)


def test_every_sample_comes_once_before_any_comes_twice() -> None:
    found = list(batches(10, 4, 5, seed=1))
    assert [len(b) for b in found] == [4] * 5
    assert len({*found[0], *found[1]}) == 8
    assert found == list(batches(10, 4, 5, seed=1)) != list(batches(10, 4, 5, seed=2))
    assert [len(b) for b in batches(3, 8, 2, 0)] == [3, 3]


def test_no_samples_and_no_number_are_refused() -> None:
    block = llama_block()
    with pytest.raises(ConfigError, match=r"^x: block blocks\.0: needs calibration data"):
        Runner(OneBlock(block.graph, []), "x")
    with pytest.raises(ConfigError, match="the loss is nan at step 3; the blocks before are kept"):
        Runner(block, "x").checked(float("nan"), 3)


def test_a_block_that_gives_nan_is_named() -> None:
    block = llama_block()
    block.graph = block.graph.replace(tensors={"feed.down.weight": torch.full((32, 48), torch.nan)})
    runner = Runner(block, "x")
    with pytest.raises(ConfigError, match=r"^x: block blocks\.0: the loss is nan at step 0"):
        runner.checked(runner.loss({}, [0, 1]), 0)
