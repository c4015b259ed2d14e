"""Splits are fixed, whole and apart; options and files are checked; a digest knows every value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mase.config import TrainConfig
from mase.data.base import DATASETS, Data, Split, load, needs, split_at_random, split_by_class, standardised
from mase.errors import ConfigError, ToolError, UnknownName
from mase.models.base import build
from mase.training import score, train

SIZES = {
    "digits": (1797, (1, 8, 8), 10),
    "iris": (150, (4,), 3),
    "wine": (178, (13,), 3),
    "breast_cancer": (569, (30,), 2),
}


def test_every_name_is_the_name_of_its_file() -> None:
    assert all(load.__module__ == f"mase.data.{name}" for name, load in DATASETS.items())


@pytest.mark.parametrize("name", SIZES)
def test_a_set_of_scikit_learn_is_split_by_class_and_whole(name: str) -> None:
    data = load(name)
    count, shape, classes = SIZES[name]
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == count
    assert [len(p) / count for p in parts] == pytest.approx([0.64, 0.16, 0.2], abs=0.01)
    shares = [torch.bincount(p.y, minlength=classes) / len(p) for p in parts]
    assert all(torch.allclose(share, shares[0], atol=0.03) for share in shares)
    assert {tuple(p.x.shape[1:]) for p in parts} == {shape}
    assert {(p.x.dtype, p.y.dtype) for p in parts} == {(torch.float32, torch.int64)}
    assert data.digest() == load(name).digest()


@pytest.mark.parametrize(("name", "least"), [("iris", 0.9), ("wine", 0.94), ("breast_cancer", 0.94)])
def test_a_table_teaches_a_small_network(name: str, least: float) -> None:
    data, (_, shape, classes) = load(name), SIZES[name]
    torch.manual_seed(0)
    model = build("mlp", {"sizes": [*shape, 16, classes]})
    train(model, data, TrainConfig(epochs=30, batch=16, rate=0.01), 0, lambda number, mean: None)
    assert score(model, data.test) >= least


def test_diabetes_is_a_regression() -> None:
    data = load("diabetes")
    assert (data.task, tuple(data.test.x.shape), tuple(data.test.y.shape)) == ("values", (88, 10), (88, 1))
    torch.manual_seed(0)
    model = build("mlp", {"sizes": [10, 16, 1]})
    train(model, data, TrainConfig(epochs=60, batch=16, rate=0.01), 0, lambda number, mean: None)
    with torch.no_grad():
        error = float((model(data.test.x) - data.test.y).square().mean() / data.test.y.var())
    assert error < 0.7  # 0.5 to 0.6 is what linear regression leaves unexplained
    with pytest.raises(ConfigError, match=r"score: labels are torch.float32 \[88, 1\]"):
        score(model, data.test)


def test_parts_of_a_split_are_apart() -> None:
    x, y = torch.arange(100.0).unsqueeze(1), torch.arange(100) % 4
    for data in (split_by_class("d", x, y), split_at_random("d", x, y)):
        rows = torch.cat([p.x for p in (data.train, data.validation, data.test)]).flatten()
        assert torch.equal(rows.sort().values, x.flatten())
        assert [len(p) for p in (data.train, data.validation, data.test)] == [64, 16, 20]


def test_standardising_reads_the_train_split_alone() -> None:
    wide = Split(torch.tensor([[1e6, 5.0]]), torch.tensor([0]))
    train_x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    data = standardised(Data("d", Split(train_x, torch.tensor([0, 1])), wide, wide))
    assert torch.allclose(data.train.x, torch.tensor([[-(0.5**0.5), 0.0], [0.5**0.5, 0.0]]))
    assert data.test.x[0, 1] == 0.0  # a constant feature is shifted, not divided


def test_the_digest_knows_every_value_type_and_shape() -> None:
    data = load("iris")
    other = data.test.x.clone()
    other[3, 2] += 1e-6
    assert replace(data, test=Split(other, data.test.y)).digest() != data.digest()
    assert replace(data, task="values").digest() != data.digest()
    assert replace(data, test=Split(data.test.x.reshape(-1, 2), data.test.y)).digest() != data.digest()
    assert replace(data, name="other").digest() == data.digest()


def test_a_wrong_name_or_option_is_one_line() -> None:
    with pytest.raises(UnknownName, match=r"data: unknown name 'mnits'; did you mean mnist\?"):
        load("mnits")
    with pytest.raises(ConfigError, match="data digits: unknown option 'path'; allowed: none"):
        load("digits", {"path": "x"})
    with pytest.raises(ConfigError, match="data mnist: option 'path' is missing"):
        load("mnist")


def test_a_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path / 'here'}: no train-images"):
        load("mnist", {"path": "here"}, tmp_path)


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(ToolError, match=r"data x needs the package no_such_package .*; pip install 'mase-dse\[data\]'"):
        needs("no_such_package", "data", "data x")


def test_a_class_that_cannot_be_in_every_split_is_told() -> None:
    y = torch.tensor([0] * 20 + [1])
    with pytest.raises(ConfigError, match="data own: 21 samples, 1 of the rarest class; each class needs a few"):
        split_by_class("own", torch.zeros(21, 2), y)
