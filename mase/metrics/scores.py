"""What a run scores a model by: one number, of which more is better, for each kind of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mase.data.base import Data, Task
from mase.errors import ConfigError
from mase.metrics.accuracy import accuracy
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


ACCURACY = Metric("accuracy", accuracy)
METRICS: Mapping[Task, Metric] = {"classes": ACCURACY, "values": Metric("snr", snr)}


def metric(data: Data) -> Metric:
    """Return the score of a data set.

    Raises:
        ConfigError: a run has no score for such labels.
    """
    if data.task not in METRICS:
        raise ConfigError(
            f"data {data.name}: its labels are {data.task}; a run scores {' or '.join(METRICS)}; `mase trace` takes any"
        )
    return METRICS[data.task]
