"""Each kind of labels has its scores; others are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mase.data.base import Data, Passage, Split, Task
from mase.errors import ConfigError
from mase.metrics.accuracy import accuracy
from mase.metrics.perplexity import perplexity
from mase.metrics.scores import NAMES, Metric, metric
from mase.metrics.snr import snr


def data(task: Task) -> Data:
    split = Split(torch.zeros(2, 2), torch.zeros(2, 2))
    return Data("mine", split, split, split, task=task)


def passage() -> Passage:
    ids = torch.randint(0, 7, (49,), generator=torch.Generator().manual_seed(0))
    return Passage(ids[:48].view(12, 4), ids[1:].view(12, 4), ids, 60)


def text() -> Data:
    return Data("mine", passage(), passage(), passage(), task="tokens")


def test_classes_and_values_have_scores() -> None:
    for task, name, of in (("classes", "accuracy", accuracy), ("values", "snr", snr)):
        found = metric(data(task))
        assert isinstance(found, Metric)
        assert (found.name, found.of, found.direction) == (name, of, "maximize")


def test_texts_have_two_of_which_less_is_better() -> None:
    found = [metric(text()), metric(text(), "bits_per_byte")]
    assert [(score.name, score.direction) for score in found] == [
        ("perplexity", "minimize"),
        ("bits_per_byte", "minimize"),
    ]
    assert {score.name for score in found} < {*NAMES}


def test_a_text_is_read_in_windows_as_long_as_the_samples() -> None:
    def model(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((ids * 3 + 1) % 7, 7).float()

    whole, short = passage(), replace(passage(), x=passage().x[:5], y=passage().y[:5])
    assert metric(text()).score(model, whole) == perplexity(model, whole, 4, 4, limit=48).perplexity
    assert metric(text()).score(model, short) == perplexity(model, whole, 4, 4, limit=20).perplexity
    found = metric(text(), "bits_per_byte").score(model, whole)
    assert found == perplexity(model, whole, 4, 4, limit=48).bits_per_byte


def test_tokens_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="data mine: its labels are tokens, and its splits are not passages"):
        metric(data("tokens"))


def test_a_score_of_other_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search.score 'perplexity': labels of data mine are classes; allowed is"):
        metric(data("classes"), "perplexity")
    with pytest.raises(ConfigError, match=r"'perplexty'.*allowed is perplexity or bits_per_byte"):
        metric(text(), "perplexty")
