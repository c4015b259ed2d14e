"""Each kind of labels has its score, or is refused by name."""

from __future__ import annotations

import pytest
import torch

from mase.data.base import Data, Split, Task
from mase.errors import ConfigError
from mase.metrics.accuracy import accuracy
from mase.metrics.scores import metric
from mase.metrics.snr import snr


def data(task: Task) -> Data:
    split = Split(torch.zeros(2, 2), torch.zeros(2, 2))
    return Data("mine", split, split, split, task=task)


def test_classes_and_values_have_scores() -> None:
    assert [(metric(data(task)).name, metric(data(task)).of) for task in ("classes", "values")] == [
        ("accuracy", accuracy),
        ("snr", snr),
    ]


def test_tokens_have_none() -> None:
    with pytest.raises(ConfigError, match="data mine: its labels are tokens; a run scores classes or values"):
        metric(data("tokens"))
