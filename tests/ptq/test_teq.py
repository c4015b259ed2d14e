"""TEQ: trained factors fold away, and what is rounded behind them errs less."""

from __future__ import annotations

import pytest
import torch

from mase import interpreter
from mase.errors import ConfigError
from mase.formats import parse
from passes.ptq.base import METHODS
from passes.ptq.blockwise import Runner, named
from passes.ptq.folds import folds
from passes.ptq.rtn import Rtn
from passes.ptq.teq import Teq, effective
from tests.ptq.blocks import llama_block
from tests.ptq.test_smoothquant import unchanged


@pytest.mark.parametrize("text", ["int2g16a", "mxint4b16"])
def test_a_block_errs_less_behind_it(text: str) -> None:
    plain, trained = llama_block(), llama_block()
    Rtn(text).run(plain)
    Teq(text, iters=40, lr=0.01).run(trained)
    assert unchanged(trained)
    Rtn(text).run(trained)
    assert trained.error() < 0.95 * plain.error()


def test_factors_that_do_not_help_are_not_folded() -> None:
    plain, trained = llama_block(), llama_block()
    Rtn("int3g16a").run(plain)
    Teq("int3g16a", iters=2, lr=1.0).run(trained)  # steps that are far too long
    Rtn("int3g16a").run(trained)
    assert trained.error() <= plain.error() * (1 + 1e-6)


def test_what_is_trained_is_what_a_fold_and_rounding_give() -> None:
    block, text = llama_block(), "int3g16a"
    found = list(folds(block))
    factors = [
        f.pair.tied(0.5 + torch.rand(f.pair.features, generator=torch.Generator().manual_seed(i)))
        for i, f in enumerate(found)
    ]
    runner = Runner(block, "x")
    seen = runner.run(effective(found, factors, named(block.layers()), parse(text)), block.given[0])
    for fold, factor in zip(found, factors, strict=True):
        block.fold(fold.pair.folded(block.graph, factor))
    Rtn(text).run(block)
    keys = {f"{path}.weight": weight.dense() for path, weight in block.done.items()}
    after = interpreter.train(block.graph.replace(tensors=keys), block.given[0])
    assert float((after - seen).abs().max()) < 1e-3 * float(seen.abs().max())  # a few weights lie on a tie


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"teq\.iters: found 0"):
        Teq(iters=0)
    with pytest.raises(ConfigError, match=r"teq\.lr: found 0"):
        Teq(lr=0)
    assert METHODS["teq"] is Teq
