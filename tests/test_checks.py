"""Data and models that do not fit are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.checks import check_data, check_fit, check_hardware
from mase.data.base import Data, Split
from mase.errors import ConfigError, UnsupportedOp

GOOD = Data("d", *(Split(torch.randn(n, 4), torch.arange(n) % 3) for n in (9, 6, 6)))


def with_train(**parts: Any) -> Data:
    return replace(GOOD, train=replace(GOOD.train, **parts))


def with_nan() -> Data:
    x = GOOD.train.x.clone()
    x[5, 1] = float("nan")
    return with_train(x=x)


def test_whole_data_and_a_model_that_fits_pass_and_the_mode_stays() -> None:
    model = nn.Linear(4, 3)
    check_data(GOOD)
    check_fit(model, GOOD)
    assert model.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_nan, "data d: train: inputs: NaN or infinity in 1 samples, the first of them 5"),
        (lambda: with_train(x=GOOD.train.x * float("inf")), "NaN or infinity in 9 samples"),
        (lambda: with_train(x=GOOD.train.x.double()), "train: inputs: found torch.float64"),
        (lambda: with_train(y=GOOD.train.y.float()), "labels: found torch.float32; allowed are classes"),
        (lambda: with_train(y=GOOD.train.y - 1), "labels: found class -1"),
        (lambda: with_train(y=GOOD.train.y[:5]), "train: 9 inputs, 5 labels"),
        (lambda: with_train(x=[1]), "train: found list; a torch.Tensor is needed"),
        (lambda: replace(GOOD, test=Split(torch.empty(0, 4), torch.empty(0).long())), "no samples are left for test"),
        (
            lambda: replace(GOOD, test=Split(torch.zeros(2, 5), torch.zeros(2).long())),
            "test: a sample is torch.float32",
        ),
    ],
)
def test_data_that_are_not_whole_are_refused(change: Callable[[], Data], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_data(change())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(5, 3), "model: fails on inputs torch.float32 [2, 4]: mat1 and mat2 shapes"),
        (nn.Linear(4, 2), "model: gives [2, 2] for 2 samples of 3 classes; allowed is [samples, 3 or more]"),
        (nn.Unflatten(1, (2, 2)), "model: gives [2, 2, 2]"),
    ],
)
def test_a_model_that_does_not_fit_its_data_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_fit(model, GOOD)
    assert said in str(caught.value)


class Branches(nn.Module):
    """Two layers side by side, whose shapes would also fit one after the other."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Linear(4, 4), nn.Linear(4, 4), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.a(x), self.b(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Branches(torch.maximum), "has no hardware"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2)), "has no hardware"),
        (nn.Flatten(), "there is nothing to build between input and output"),
    ],
)
def test_a_graph_without_hardware_is_not_searched(model: nn.Module, said: str) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        check_hardware(mase.trace(model.eval(), torch.randn(3, 4)))
    assert said in str(caught.value)


def test_chains_and_graphs_that_branch_are_searched() -> None:
    chain = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for model in (chain, Branches(lambda a, b: a + b)):
        check_hardware(mase.trace(model.eval(), GOOD.test.x))


def test_a_graph_with_two_outputs_is_not_searched() -> None:
    graph, _ = mase.trace(Branches(lambda a, b: a + b).eval(), GOOD.test.x).edited()
    graph.output.node.args = ([graph.node("a").node, graph.node("b").node],)
    with pytest.raises(UnsupportedOp, match="the graph has 2 outputs; allowed is 1"):
        check_hardware(graph)
