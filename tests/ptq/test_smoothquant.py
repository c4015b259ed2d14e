"""SmoothQuant: outliers of inputs become smaller, and the block gives what it gave."""

from __future__ import annotations

import pytest
import torch

from mase import interpreter
from mase.calib.absorb import pairs
from mase.errors import ConfigError
from passes.ptq.base import METHODS, Block
from passes.ptq.smoothquant import SmoothQuant
from tests.ptq.blocks import OneBlock, llama_block


def unchanged(block: OneBlock) -> bool:
    """Tell whether a block in float gives what it gave before folds."""
    pairs_of = zip(block.given, block.wanted, strict=True)
    return all(
        float((interpreter.train(block.graph, x) - y).abs().max()) < 1e-5 * float(y.abs().max()) for x, y in pairs_of
    )


def spread(block: Block, edge: str) -> float:
    """Return how far the greatest feature of an edge lies above the mean one."""
    values = interpreter.run(block.graph, block.samples()[0], keep=True).real(edge)
    peaks = values.reshape(-1, values.shape[-1]).abs().amax(0)
    return float(peaks.max() / peaks.mean())


@pytest.mark.parametrize("which", ["norms", "all"])
def test_outliers_shrink_and_outputs_stay(which: str) -> None:
    block = llama_block()
    before = spread(block, "norm1")
    SmoothQuant(pairs=which).run(block)  # type: ignore[arg-type]
    assert spread(block, "norm1") < 0.7 * before
    assert unchanged(block)


def test_factors_by_hand() -> None:
    block = llama_block()
    norm = block.graph.tensors["norm1.weight"].clone()
    layers = {layer.path: layer for layer in block.layers(("peak",))}
    names = ("attention.query", "attention.key", "attention.value")
    weight = torch.cat([layers[name].weight for name in names]).abs().amax(0)
    peak = layers["attention.query"].seen.peak
    assert peak is not None
    SmoothQuant(alpha=0.75).run(block)
    assert torch.allclose(block.graph.tensors["norm1.weight"], norm / (peak**0.75 / weight**0.25), rtol=1e-5)


def test_the_other_pairs_stay_by_default() -> None:
    block = llama_block()
    before = dict(block.graph.tensors)
    SmoothQuant().run(block)
    changed = {key for key, x in block.graph.tensors.items() if not torch.equal(x, before[key])}
    assert changed == {key for pair in pairs(block.graph) if pair.norm for key in (pair.weight, *pair.consumers)}


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"smoothquant\.alpha: found 1\.5"):
        SmoothQuant(alpha=1.5)
    with pytest.raises(ConfigError, match=r"smoothquant\.pairs: found 'some'; allowed: all, norms"):
        SmoothQuant(pairs="some")  # type: ignore[arg-type]
    assert METHODS["smoothquant"] is SmoothQuant
