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
from mase.errors import ConfigError, GraphError, UnsupportedOp
from mase.netlist import build

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
        (Branches(torch.maximum), "no hardware for node 'maximum'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2)), "no hardware for node '1' (softmax"),
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


def test_the_first_nodes_without_hardware_are_named() -> None:
    layers = [part for _ in range(5) for part in (nn.Linear(4, 4), nn.Softmax(-1))]
    graph = mase.trace(nn.Sequential(*layers).eval(), GOOD.test.x)
    with pytest.raises(UnsupportedOp) as caught:
        check_hardware(graph)
    text = str(caught.value)
    assert text.count("softmax") == 3, text
    assert "node '1' (softmax" in text
    assert text.endswith(" and 2 more")
    quantized = mase.quantize(graph, {"default": {"weight": "int8", "activation": "fixed8"}}, [GOOD.test.x])
    with pytest.raises(UnsupportedOp) as caught:
        build(quantized)
    assert "has no hardware; none either: node '3' (softmax" in str(caught.value)
    assert " and 1 more; supported: " in str(caught.value)


def test_values_must_have_the_shape_of_the_labels() -> None:
    split = Split(torch.randn(6, 4), torch.randn(6, 2))
    data = Data("mine", split, split, split, task="values")
    check_fit(nn.Linear(4, 2), data)
    with pytest.raises(ConfigError, match=r"model: gives \[2, 1\] for 2 samples; the labels are values \[2, 2\]"):
        check_fit(nn.Linear(4, 1), data)


class Two(nn.Module):
    """Two inputs, two results."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, y[:, :2]


def test_several_inputs_and_results_are_checked() -> None:
    split = Split(GOOD.train.x, GOOD.train.y, others=(GOOD.train.x * 2,))
    check_data(data := Data("mine", split, split, split))
    check_fit(Two(), data)
    with pytest.raises(ConfigError, match=r"gives \[2, 2\] for 2 samples of 3 classes"):
        check_fit(Two(), data, (1,))
    with pytest.raises(GraphError, match="output '2': the model does not return it"):
        check_fit(Two(), data, (2,))
    short = Split(split.x, split.y, others=(split.x[:-1],))
    with pytest.raises(ConfigError, match=r"of the first input, .* of another; allowed is one a sample"):
        check_data(Data("mine", short, split, split))
    plain = Split(split.x, split.y)
    with pytest.raises(ConfigError, match="validation: a sample is "):
        check_data(Data("mine", split, plain, split))
