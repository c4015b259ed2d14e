"""AWQ: folding leaves the float block, and what is rounded behind it errs less."""

from __future__ import annotations

import pytest
import torch

import mase
from mase.errors import ConfigError
from mase.formats import parse
from passes.ptq.awq import Awq, clipped
from passes.ptq.base import METHODS
from passes.ptq.folds import folds, scaled_error
from passes.ptq.gptq import Gptq
from passes.ptq.rtn import Rtn
from tests.ptq.blocks import llama_block
from tests.ptq.layers import layer
from tests.ptq.models import graph, tokens
from tests.ptq.test_smoothquant import unchanged


@pytest.mark.parametrize("text", ["int4g16a", "int3g16f_fp16", "mxint4b16", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("duo", [False, True])
def test_a_block_errs_less_behind_it(text: str, duo: bool) -> None:
    plain, scaled = llama_block(), llama_block()
    Rtn(text).run(plain)
    Awq(text, duo=duo).run(scaled)
    Rtn(text).run(scaled)
    assert scaled.error() < plain.error()


def test_folding_alone_leaves_outputs() -> None:
    block = llama_block()
    Awq("int3g16a", clip=False).run(block)
    assert unchanged(block)


def test_it_composes_with_gptq() -> None:
    plain, both = llama_block(), llama_block()
    Gptq("int2g16a").run(plain)
    Awq("int2g16a", clip=False).run(both)
    Gptq("int2g16a").run(both)
    assert both.error() < plain.error()


def test_the_best_candidate_is_found() -> None:
    method, fmt = Awq("int3g16a"), parse("int3g16a")
    for fold in folds(llama_block(), method.needs):
        first = fold.layers[0].seen
        assert first.absolute is not None
        mean = (first.absolute / first.tokens).float()
        errors = []
        for i in range(20):
            s = mean ** (i / 20)
            errors.append(scaled_error(fold.layers, fold.pair.tied(s / (s.max() * s.min()).sqrt()), fmt))
        assert scaled_error(fold.layers, method.factors(fold, fmt), fmt) == min(errors)
        assert min(errors) <= errors[0]  # r = 0 is no factor at all


@pytest.mark.parametrize("text", ["int2g16a", "int3g32f_fp16", "int3c"])
def test_clipping_lowers_the_error_of_no_group_below_it(text: str) -> None:
    own, fmt = layer(), parse(text)
    small = clipped(own, fmt)
    assert bool((small.abs() <= own.weight.abs()).all())
    errors = [
        own.output_error(fmt.quantize(w, fmt.calibrate(w, 0 if text == "int3c" else -1))) for w in (own.weight, small)
    ]
    assert errors[1] < errors[0]


def test_queries_and_keys_are_not_clipped() -> None:
    block = llama_block()
    with torch.no_grad():
        block.graph.tensors["attention.query.weight"][:, 0] *= 20
    folded = llama_block()
    with torch.no_grad():
        folded.graph.tensors["attention.query.weight"][:, 0] *= 20
    Awq("int2g16a").run(block)
    Awq("int2g16a", clip=False).run(folded)
    assert set(block.lowered) == {
        "attention.value",
        "attention.output",
        *(f"feed.{n}" for n in ("gate", "up", "down")),
    }
    assert all(torch.equal(x, folded.graph.tensors[key]) for key, x in block.graph.tensors.items())


def test_errors_are_those_against_weights_before_they_are_clipped() -> None:
    g, x = graph(layers=1), tokens()
    rtn = {"rtn": {"format": "int2g16a"}}
    plain, clip = (mase.ptq(g, [{"awq": {"format": "int2g16a", "clip": clip}}, rtn], x)[1] for clip in (False, True))
    assert all(torch.equal(value, plain.folded[key]) for key, value in clip.folded.items())
    for row in clip.layers:
        dense = clip.packed[row.path].dense()
        key = g.node(row.path).record.key("weight")
        weight = plain.folded.get(key, g.tensors[key])
        assert row.weight_error == pytest.approx(float((dense - weight).square().sum() / weight.square().sum()))
    assert {row.path for row, other in zip(clip.layers, plain.layers, strict=True) if row != other} > {
        "blocks.0.feed.up"
    }
    with pytest.raises(ConfigError, match=r"recipe: teq comes behind awq, which lowers ranges; put it before"):
        mase.ptq(g, ["awq", "teq", "rtn"], x)


def test_a_branch_makes_good_what_clipping_loses() -> None:
    g, x = graph(layers=1), tokens()
    _, report = mase.ptq(
        g,
        [
            {"awq": {"format": "int2g16a"}},
            {"rtn": {"format": "int2g16a"}},
            {"lqer": {"rank": 48, "format": "e8m23ieee"}},
        ],
        x,
    )
    assert max(row.weight_error for row in report.layers) < 1e-9  # of full rank: nothing is left


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"awq\.points: found 0; allowed is a whole number from 1 to 200"):
        Awq(points=0)
    assert METHODS["awq"] is Awq
