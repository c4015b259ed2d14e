"""Top-k accuracy: ties go to the lower class, NaN never wins at the label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.errors import ConfigError
from mase.metrics.accuracy import accuracy

NAN = float("nan")


def test_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.3, 0.4]])
    labels = torch.tensor([1, 2, 1])
    assert [accuracy(logits, labels, top) for top in (1, 2, 3)] == [1 / 3, 2 / 3, 1.0]


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    hits = [[accuracy(logits, torch.tensor([label]), top) for top in (1, 2, 3)] for label in (0, 1, 2)]
    assert hits == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


@given(st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=8), st.integers(1, 5))
def test_it_is_a_stable_sort(rows: list[list[int]], top: int) -> None:
    logits, labels = torch.tensor(rows, dtype=torch.float32), torch.arange(len(rows)) % 5
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
    assert accuracy(logits, labels, top) == float((order == labels.unsqueeze(1)).any(1).double().mean())
    if top == 1:
        assert accuracy(logits, labels) == float((logits.argmax(1) == labels).double().mean())


def test_a_model_that_gives_nan_is_never_right() -> None:
    logits = torch.tensor([[NAN, NAN, NAN], [NAN, 1.0, 0.0], [0.0, NAN, 5.0]])
    assert accuracy(logits, torch.tensor([0, 0, 1]), 3) == 0.0
    assert accuracy(logits[1:], torch.tensor([1, 2])) == 0.0
    assert accuracy(logits[1:], torch.tensor([1, 2]), 2) == 1.0


@pytest.mark.parametrize(
    ("shape", "labels", "top", "text"),
    [
        ((0, 3), 0, 1, "with a sample or more"),
        ((4, 3), 3, 1, r"logits \[4, 3\], labels \[3\]"),
        ((4, 3, 2), 4, 1, r"allowed are \[samples, classes\]"),
        ((4, 3), 4, 4, r"top 4; allowed are 1\.\.3"),
        ((4, 3), 4, 0, "top 0"),
    ],
)
def test_what_does_not_fit_is_told(shape: tuple[int, ...], labels: int, top: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        accuracy(torch.zeros(shape), torch.zeros(labels, dtype=torch.int64), top)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (torch.tensor([0, 3]), r"labels torch.int64 from 0 to 3; allowed are whole numbers 0\.\.2"),
        (torch.tensor([0, -1]), "from -1 to 0"),
        (torch.tensor([0.0, 1.0]), "labels torch.float32"),
        ([0, 1], "labels: found list; allowed is a tensor"),
    ],
)
def test_labels_that_are_no_classes_are_told(labels: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        accuracy(torch.zeros(2, 3), labels)


def test_labels_may_be_of_any_whole_type() -> None:
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert [accuracy(logits, torch.tensor([1, 1]).to(kind)) for kind in (torch.uint8, torch.int32)] == [0.5, 0.5]
