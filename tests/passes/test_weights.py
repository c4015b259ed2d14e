from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.graph import Graph
from passes.base import PASSES
from passes.weights import WeightsConfig, WeightsReport, weights
from tests.passes.graphs import Sketch, single


def described(graph: Graph, config: WeightsConfig | None = None) -> WeightsReport:
    report: WeightsReport = weights(graph, config)[1]
    return report


def linear(weight: Tensor) -> Graph:
    return single("linear", [(1, weight.shape[1])], (1, weight.shape[0]), operands={"weight": weight})


def test_figures_by_hand() -> None:
    found = described(linear(torch.tensor([[1.0, -1.0], [4.0, 0.0]]))).tensors["it.weight"]
    assert (found.values.minimum, found.values.maximum, found.values.shape, found.users) == (-1, 4, (2, 2), ("it",))
    assert found.crest == pytest.approx(4 / math.sqrt(18 / 4), rel=1e-12)  # float64 on five operations
    assert found.spread == 4.0


def test_outliers_raise_the_crest_and_wide_channels_the_spread() -> None:
    plain = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    outlier, scaled = plain.clone(), plain.clone()
    outlier[3, 5], scaled[3] = 100.0, plain[3] * 100
    calm, spiked, wide = (described(linear(w)).tensors["it.weight"] for w in (plain, outlier, scaled))
    assert calm.crest < 5 < 50 < spiked.crest
    assert calm.spread < 3 < 50 < wide.spread


def test_a_channel_of_zeros_has_no_part_in_the_spread() -> None:
    assert described(linear(torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, 0.5]]))).tensors["it.weight"].spread == 2.0
    assert described(linear(torch.zeros(2, 2))).tensors["it.weight"].spread == 1.0


def test_a_shared_tensor_is_described_once() -> None:
    table = torch.ones(5, 4)
    sketch = Sketch()
    x = sketch.add("embedding", "embed", (2, 3, 4), sketch.input("ids", (2, 3), "int64"), operands={"weight": table})
    found = described(sketch.graph(sketch.add("linear", "head", (2, 3, 5), x, operands={"weight": table}))).tensors
    assert list(found) == ["embed.weight"]
    assert (found["embed.weight"].users, found["embed.weight"].tied) == (("embed", "head"), ("head.weight",))


def test_whole_numbers_are_left_out() -> None:
    sketch = Sketch()
    mask = sketch.add("constant", "mask", (3,), operands={"value": torch.arange(3)})
    assert described(sketch.graph(sketch.add("add", "y", (2, 3), sketch.input("x", (2, 3)), mask))).tensors == {}


def test_an_impossible_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights\.bins: found 0; allowed is 1\.\.4096"):
        WeightsConfig(bins=0)


def test_it_is_registered_and_the_report_is_json() -> None:
    assert PASSES["weights"] is weights
    graph = linear(torch.ones(2, 2))
    after, report = weights(graph)
    assert after is graph
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["tensors"]["it.weight"]["values"]["absmax"] == 1.0
