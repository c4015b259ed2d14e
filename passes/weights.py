"""Describe every parameter: range, moments, percentiles, and what tells how coarsely it may be quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from mase.graph import Graph
from passes.base import graph_pass
from passes.parameters import tensors_of
from passes.statistics import Accumulator, StatisticsConfig, TensorStatistics


@dataclass(frozen=True)
class WeightsConfig(StatisticsConfig):
    """What to describe; the fields are those of ``statistics``."""

    where: ClassVar[str] = "weights"


@dataclass(frozen=True)
class WeightStatistics:
    """Describe one tensor of the table.

    Args:
        values: of all its finite elements. users: paths of the nodes that hold it. tied: other keys of the same memory.
        crest: greatest magnitude over root mean square; a million elements of a Gaussian have about 5, outliers more.
        spread: greatest magnitude of an output channel over that of the least one that is not zero; 1 where there is no
            channel axis. What a scale for each channel would gain.
    """

    values: TensorStatistics
    users: tuple[str, ...]
    tied: tuple[str, ...]
    crest: float
    spread: float


@dataclass(frozen=True)
class WeightsReport:
    """Tensors of floating point by table key, a shared one under its first; ``resolution``: error of a percentile."""

    resolution: float
    tensors: Mapping[str, WeightStatistics]

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return asdict(self)


@graph_pass("weights", WeightsConfig, provides=("weights",))
def weights(graph: Graph, config: WeightsConfig) -> tuple[Graph, WeightsReport]:
    """Describe every tensor that a node holds, without data; the graph stays as it is."""
    first = dict[tuple[int, int], str]()  # key by where in memory and how many
    tensors, users, tied = dict[str, Tensor](), dict[str, dict[str, None]](), dict[str, dict[str, None]]()
    for node in graph.nodes():
        for item, tensor in tensors_of(node):
            key = first.setdefault((tensor.data_ptr(), tensor.numel()), item.key)
            tensors.setdefault(key, tensor)
            users.setdefault(key, {})[node.path] = None
            if item.key != key:
                tied.setdefault(key, {})[item.key] = None
    found = {}
    for key, tensor in tensors.items():
        seen = Accumulator(config)
        seen.add(tensor)
        if seen.finite:
            values = seen.result(key, tuple(tensor.shape))
            rest = _crest(values), _spread(tensor)
            found[key] = WeightStatistics(values, tuple(users[key]), tuple(tied.get(key, ())), *rest)
    return graph, WeightsReport(2.0**-config.resolution, found)


def _crest(values: TensorStatistics) -> float:
    return values.absmax / math.sqrt(values.second_moment) if values.second_moment else 1.0


def _spread(tensor: Tensor) -> float:
    if tensor.ndim < 2 or not tensor.numel():
        return 1.0
    peaks = tensor.detach().flatten(1).abs().amax(1).double()
    peaks = peaks[(peaks > 0) & peaks.isfinite()]
    return float(peaks.max() / peaks.min()) if peaks.numel() else 1.0
