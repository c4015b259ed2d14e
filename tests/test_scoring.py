"""The search scores what the passes build: same formats, same integers, same cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mase.errors import UnknownName
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.metrics.accuracy import accuracy
from mase.scoring import REFUSED, Scorer, Target, space
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

FORMATS = ("fixed4", "fixed8.5", "int4", "int8p", "mxint4b4e3", "mxint8b8e4")
torch.manual_seed(3)
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)).eval()
X = torch.randn(96, 3, 4)
LABELS = MODEL(X).argmax(1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return fuse(trace_module(MODEL, (X[:2],))[0])[0]


@pytest.fixture(scope="module")
def samples(graph: Graph) -> dict[str, torch.Tensor]:
    return ranges(graph, [X])


def test_axes_are_one_a_tensor(graph: Graph) -> None:
    names = space(graph, FORMATS, FORMATS).names
    layers = [f"{path}.{what}" for path in ("1", "3", "5") for what in ("weight", "activation")]
    assert list(names) == ["input.activation", *layers]
    assert space(graph, FORMATS, FORMATS, tie=True).size == len(FORMATS) ** 2


def test_a_score_is_that_of_the_quantized_graph(graph: Graph, samples: dict[str, torch.Tensor]) -> None:
    axes, rng = space(graph, FORMATS, FORMATS), np.random.default_rng(0)
    scorer = Scorer(graph, X, LABELS, samples, Target("xcup", None))
    for _ in range(12):
        point = axes.sample(rng)
        inputs, formats = scorer.config(point)
        given = QuantizeConfig(overrides={p: NodeFormats(**f) for p, f in formats.items()}, inputs=inputs)
        quantized, _ = apply(graph, given, samples)
        assert scorer(point)["accuracy"] == accuracy(quantized(X), LABELS)


def test_scores_do_not_depend_on_what_was_scored_before(graph: Graph, samples: dict[str, torch.Tensor]) -> None:
    axes, rng = space(graph, FORMATS, FORMATS), np.random.default_rng(1)
    points = [axes.sample(rng) for _ in range(20)]
    scorer = Scorer(graph, X, LABELS, samples, Target("xcup", 40))
    forward = [scorer(p) for p in points]
    assert forward == [scorer(p) for p in points]
    other = Scorer(graph, X, LABELS, samples, Target("xcup", 40))
    assert forward[::-1] == [other(p) for p in points[::-1]]


def test_what_has_no_hardware_scores_zero_and_is_not_legal(graph: Graph, samples: dict[str, torch.Tensor]) -> None:
    axes = space(graph, ("nf4",), ("fixed8.4",))
    scorer = Scorer(graph, X, LABELS, samples, Target("xcup", None))
    assert scorer(next(axes.points())) == {"accuracy": 0.0, **REFUSED}
    too_fast = Scorer(graph, X, LABELS, samples, Target("xcup", 0))
    assert too_fast(next(space(graph, ("int8",), ("fixed8.4",)).points())) == {"accuracy": 0.0, **REFUSED}


def test_an_unknown_device_is_an_error(graph: Graph, samples: dict[str, torch.Tensor]) -> None:
    scorer = Scorer(graph, X, LABELS, samples, Target("xcpu", None))
    with pytest.raises(UnknownName, match="xcup"):
        scorer(next(space(graph, ("int8",), ("fixed8.4",)).points()))
