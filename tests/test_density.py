"""Formats of a language model: what is scored is the quantized graph, and bits are those that are stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from mase.data.base import Data, Passage, Split
from mase.data.text import passages
from mase.density import FLOAT, WORST, DensityScorer, producers, space
from mase.errors import ConfigError, UnsupportedOp
from mase.explore.choice import solve
from mase.frontend import trace
from mase.graph import Graph
from mase.metrics.perplexity import perplexity
from mase.metrics.scores import Reading, metric
from mase.models.base import build
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

WINDOW = 16
FORMATS = ("mxint4b16", "mxint6b8e4", "int4", "int8", "mxfp4", "bfp6b16")
GROUPS = ("int4g8f_fp16", *FORMATS[1:])  # of weights
SIZES = {"vocab": 128, "dim": 32, "heads": 2, "kv_heads": 1, "layers": 2, "hidden": 48, "length": 32}


@cache
def text() -> Data:
    words = "the cat sat on the mat, and the dog ran to the river. "
    return passages("text", (words * 30, words * 8, words[::-1] * 8), WINDOW, "bytes")


@cache
def model(name: str = "llama", **options: object) -> tuple[Graph, dict[str, Tensor]]:
    torch.manual_seed(0)
    graph, _ = trace(build(name, {**SIZES, **options}).eval(), text().train.x[:2], dynamic=("batch",))
    only = {node.name for node in producers(graph)}
    return graph, ranges(graph, [text().train.x[:4]], only)


def few(count: int = 5) -> Passage:
    split = text().validation
    assert isinstance(split, Passage)
    return replace(split, x=split.x[:count], y=split.y[:count])


def scorer(name: str = "llama", score: str = "perplexity", **options: object) -> DensityScorer:
    return DensityScorer(model(name, **options)[0], few(), model(name, **options)[1], Reading(score))


def test_axes_are_what_is_multiplied() -> None:
    names = space(model(layers=1)[0], FORMATS, FORMATS).names
    attention = "blocks.0.attention"
    weights = [*(f"{attention}.{n}" for n in ("query", "key", "value", "output"))]
    weights += [*(f"blocks.0.feed.{n}" for n in ("gate", "up", "down")), "embedding", "head"]
    values = ["blocks.0.norm1", "blocks.0.norm2", f"{attention}.value", f"{attention}.rotary.add", "norm"]
    values += [f"{attention}.rotary.add_1", f"{attention}.scaled_dot_product_attention", "blocks.0.feed.mul_4"]
    assert sorted(names) == sorted([f"{n}.weight" for n in weights] + [f"{n}.activation" for n in values])
    assert space(model(layers=1)[0], FORMATS, FORMATS, tie=True).size == len(FORMATS) ** 2


def test_weights_that_are_one_tensor_have_one_axis() -> None:
    free = [axis.name for axis in space(model(tied=True)[0], FORMATS, FORMATS).free]
    assert "embedding.weight" in free
    assert "head.weight" not in free
    loose, tied = scorer(), scorer(tied=True)
    points = [space(s.graph, FORMATS, FORMATS).uniform_points()[0] for s in (loose, tied)]
    assert loose.weight_bits(points[0])[1] - tied.weight_bits(points[1])[1] == 128 * 32


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_score_is_that_of_the_quantized_graph(name: str) -> None:
    graph, samples = model(name)
    axes, rng, made = space(graph, GROUPS, FORMATS), np.random.default_rng(0), scorer(name)
    found = []
    for _ in range(3):
        point = axes.sample(rng)
        _, formats = made.config(point)
        given = QuantizeConfig(overrides={path: NodeFormats(**f) for path, f in formats.items()})
        quantized, _ = apply(graph, given, samples)
        wanted = perplexity(quantized, few(), WINDOW, WINDOW, limit=5 * WINDOW).perplexity
        found.append(made(point)["perplexity"])
        assert found[-1] == wanted
    assert len(set(found)) == 3
    assert found[-1] != perplexity(graph, few(), WINDOW, WINDOW, limit=5 * WINDOW).perplexity


def test_scores_do_not_depend_on_what_was_scored_before() -> None:
    axes, rng = space(model()[0], FORMATS, FORMATS), np.random.default_rng(1)
    points = [axes.sample(rng) for _ in range(3)]
    one, other = scorer(), scorer()
    assert [one(p) for p in points] == [other(p) for p in points[::-1]][::-1]


def test_bits_are_the_mean_of_all_weights_and_of_what_is_multiplied() -> None:
    graph, made = model(layers=1)[0], scorer(layers=1)
    found = made(next(space(graph, ("mxint4b16",), ("mxint6b16",)).points()))
    matrices = 2 * 128 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    norms = 3 * 32
    values = WINDOW * (3 * 32 + 32 + 16 + 16 + 32 + 48)  # norms; query, key, value; mixed values; hidden ones
    bits = matrices * 4.5 + norms * FLOAT
    assert found["weight_bits"] == pytest.approx(bits / (matrices + norms))
    assert found["activation_bits"] == 6.5
    assert found["bits"] == pytest.approx((bits + 6.5 * values) / (matrices + norms + values))
    assert found["density"] == pytest.approx(32 / found["bits"])


def test_bits_per_byte_is_the_other_score() -> None:
    point = space(model()[0], FORMATS, FORMATS).uniform_points()[0]
    nats = scorer()(point)["perplexity"], scorer(score="bits_per_byte")(point)["bits_per_byte"]
    assert math.log2(nats[0]) == pytest.approx(nats[1])  # a token is a byte


@dataclass(frozen=True)
class Broken(Reading):
    """A score that is refused, or as bad as can be."""

    def score(self, model: Callable[..., Tensor], split: Split) -> float:
        if self.name == "refused":
            raise UnsupportedOp("sums take 80 bits")
        return math.inf


@pytest.mark.parametrize("name", ["refused", "infinite"])
def test_what_no_integers_compute_reads_as_badly_as_can_be(name: str) -> None:
    graph, samples = model(layers=1)
    made = DensityScorer(graph, few(), samples, Broken(name))
    assert made(space(graph, FORMATS, FORMATS).uniform_points()[0])[name] == WORST


def test_groups_with_scales_that_are_stored_are_of_weights_alone() -> None:
    with pytest.raises(ConfigError, match=r"int4g8f_fp16: stores a scale for each group of .*; allowed .* mxint4b16"):
        space(model()[0], GROUPS, GROUPS)


def test_tables_hold_what_each_choice_alone_does() -> None:
    formats = ("mxint3b16", "mxint4b16", "mxint8b16")
    graph, made = model()[0], scorer()
    axes = space(graph, formats, formats)
    found = made.tables(axes, 4.0)
    assert found.damage.keys() == {axis.name for axis in axes.free}
    assert all(row[0] > row[1] > row[2] >= 0 for row in found.damage.values())
    point = axes.sample(np.random.default_rng(2))
    total = sum(found.sums["bits"][name][axes.free[i].position(point[name])] for i, name in enumerate(found.damage))
    least = axes.from_digits([0] * len(axes.free))
    values = made.weight_bits(point)[1] + made.activation_bits(point)[1]
    assert total == pytest.approx((made(point)["bits"] - made(least)["bits"]) * values)
    best = solve(axes, found)
    assert best is not None
    assert 3.8 < made(best.point)["bits"] <= 4.0
    assert made(best.point)["perplexity"] < WORST


def test_a_budget_below_all_designs_is_refused_with_the_least_that_is_possible() -> None:
    axes = space(model()[0], ("mxint3b16",), ("mxint4b16", "mxint8b16"))
    least = scorer()(axes.from_digits([0] * len(axes.free)))["bits"]
    with pytest.raises(ConfigError, match=rf"search.bits 2: no design has so few; the least is {least:.3f}"):
        scorer().check_bits(axes, 2.0)
    scorer().check_bits(axes, least + 1e-6)


def test_the_score_of_a_run_is_chosen_by_its_data() -> None:
    assert metric(text()).name == "perplexity"
    assert metric(text(), "bits_per_byte").name == "bits_per_byte"
