"""What a run scores a model by: one number for each kind of labels, of which more is better, or less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mase.data.base import Data, Passage, Split, Task
from mase.errors import ConfigError
from mase.metrics.accuracy import accuracy
from mase.metrics.perplexity import perplexity
from mase.metrics.snr import snr


@dataclass(frozen=True)
class Metric:
    """A score.

    Args:
        name: of the objective and in reports.
        of: outputs and labels of all samples -> the score.
    """

    name: str
    of: Callable[[Tensor, Tensor], float]

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether less or more of it is better."""
        return "maximize"

    def score(self, model: Callable[..., Tensor], split: Split) -> float:
        """Return the score of a function of the inputs."""
        with torch.no_grad():
            return self.of(model(*split.inputs), split.y)


@dataclass(frozen=True)
class Reading:
    """A score of a language model on a text, read in windows as long as the samples, which do not overlap.

    Args:
        name: a property of :class:`mase.metrics.perplexity.Perplexity`.
    """

    name: str

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize"

    def score(self, model: Callable[..., Tensor], split: Split) -> float:
        """Return the score of a function of token ids; of a split that was cut short, of the text that is left."""
        count, window = split.x.shape
        assert isinstance(split, Passage)
        found = perplexity(model, split, window, window, limit=count * window)
        return float(getattr(found, self.name))


Score = Metric | Reading
ACCURACY = Metric("accuracy", accuracy)
METRICS: Mapping[Task, Mapping[str, Score]] = {
    "classes": {"accuracy": ACCURACY},
    "values": {"snr": Metric("snr", snr)},
    "tokens": {name: Reading(name) for name in ("perplexity", "bits_per_byte")},
}
NAMES = tuple(name for scores in METRICS.values() for name in scores)


def metric(data: Data, name: str | None = None) -> Score:
    """Return the score of a data set.

    Args:
        name: of one that its labels have; the first by default.

    Raises:
        ConfigError: its labels have no such score, or a language model is scored on what is not a text.
    """
    found = METRICS[data.task]
    if name is not None and name not in found:
        raise ConfigError(
            f"search.score {name!r}: labels of data {data.name} are {data.task}; allowed is {' or '.join(found)}"
        )
    if data.task == "tokens" and not all(isinstance(part, Passage) for part in (data.validation, data.test)):
        raise ConfigError(
            f"data {data.name}: its labels are tokens, and its splits are not passages of a text; "
            "mase.data.text.passage makes one"
        )
    return found[next(iter(found)) if name is None else name]
