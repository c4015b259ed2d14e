"""Describe the values of every edge: range, moments, zeros, percentiles, histogram.

One pass over the data serves all tensors, batch by batch, and each is described as soon as it is computed, so that no
more tensors are kept than a run needs; nothing grows with the number of samples. Values are counted in classes that are
a float32's sign, exponent and first bits of its fraction, so the classes need no range in advance, and counts of two
batches add. A percentile is right to the width of its class, which is relative: 2**-resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.graph import Graph
from mase.interpreter import Batch, run, unpacked
from passes.base import graph_pass

CHUNK = 1 << 20  # elements counted at a time; bounds the temporaries
GREATEST = float(torch.finfo(torch.float32).max)
SMALLEST = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class StatisticsConfig:
    """What to describe.

    Args:
        percentiles: in percent, 0..100. bins: of the histogram, of equal width from the least value to the greatest.
        resolution: bits of fraction of a class, 3..10. Counts take ``8 * 2**resolution`` bytes for each sign and power
            of two that a tensor has values of, 512 of them at most.
    """

    where: ClassVar[str] = "statistics"  # the pass, for errors

    percentiles: tuple[float, ...] = (0.1, 1.0, 10.0, 50.0, 90.0, 99.0, 99.9)
    bins: int = 64
    resolution: int = 6

    def __post_init__(self) -> None:
        if not all(0.0 <= p <= 100.0 for p in self.percentiles):
            raise ConfigError(f"{self.where}.percentiles: found {self.percentiles}; allowed is 0..100 each")
        for name, low, high in (("bins", 1, 4096), ("resolution", 3, 10)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{self.where}.{name}: found {getattr(self, name)}; allowed is {low}..{high}")


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal width from ``low`` to ``high``; all of them are the finite values."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class TensorStatistics:
    """Describe the finite values of one tensor over all data.

    Args:
        count: of elements. nan, infinite: how many of these are not finite values.
        std: of the population. second_moment: mean of squares. zeros: fraction that is exactly zero.
        percentiles: by percent, such as ``99.9``.
    """

    path: str
    shape: tuple[int, ...]
    count: int
    nan: int
    infinite: int
    minimum: float
    maximum: float
    absmax: float
    mean: float
    std: float
    second_moment: float
    zeros: float
    percentiles: Mapping[str, float]
    histogram: Histogram


@dataclass(frozen=True)
class StatisticsReport:
    """Edges by node name; a tensor without finite values, or of whole numbers, is left out.

    Args:
        samples: seen. resolution: relative error that a percentile may have.
    """

    samples: int
    resolution: float
    edges: Mapping[str, TensorStatistics]

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return asdict(self)


@graph_pass("statistics", StatisticsConfig, provides=("statistics",))
def statistics(graph: Graph, config: StatisticsConfig, data: Iterable[Batch] = ()) -> tuple[Graph, StatisticsReport]:
    """Describe every edge on the data; the graph stays as it is.

    Args:
        data: batches, taken one by one: a tensor, one tensor an input, or tensors by the names of the inputs.
    """
    edges = {node.name: Accumulator(config) for node in graph.nodes() if node.kind != "output"}
    samples = 0
    for batch in data:
        inputs = unpacked(graph, batch)
        run(graph, inputs, observe=lambda node, x: edges[node.name].add(x))
        samples += inputs[0].shape[0]
    types = {node.name: (node.path, node.record.output.shape[1:]) for node in graph.nodes()}
    found = {name: seen.result(*types[name]) for name, seen in edges.items() if seen.finite}
    return graph, StatisticsReport(samples, 2.0**-config.resolution, found)


class Accumulator:
    """Take in values of any float dtype, part by part; how they are cut changes moments by rounding, no more."""

    def __init__(self, config: StatisticsConfig) -> None:
        self.config, self.shift = config, 23 - config.resolution
        self.counts: dict[int, npt.NDArray[np.int64]] = {}  # by sign and exponent; then by first bits of the fraction
        self.count = self.finite = self.nan = self.zeros = 0
        self.low, self.high, self.mean, self.spread = math.inf, -math.inf, 0.0, 0.0  # spread: sum of (x - mean)**2

    def add(self, x: object) -> None:
        """Take in a tensor; whole numbers, such as ids, and values that are not tensors are passed over."""
        if isinstance(x, Tensor) and x.is_floating_point():
            for part in x.detach().reshape(-1).split(CHUNK):
                self._add(part)

    def _add(self, part: Tensor) -> None:
        good = part[torch.isfinite(part)]
        self.count += part.numel()
        self.nan += int(torch.isnan(part).sum())
        if not good.numel():
            return
        wide = good.double()
        self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))
        self.zeros += int((wide == 0).sum())
        self._merge(good.numel(), float(wide.mean()), float(wide.var(correction=0)) * good.numel())
        pattern = (wide.clamp(-GREATEST, GREATEST).float() + 0.0).numpy().view(np.uint32)  # -0 becomes 0
        self._count(pattern >> self.shift)

    def _count(self, classes: npt.NDArray[Any]) -> None:
        fractions = 1 << self.config.resolution
        table = np.bincount(classes, minlength=512 * fractions).reshape(512, fractions)
        for power in np.flatnonzero(table.any(1)).tolist():
            self.counts[power] = self.counts[power] + table[power] if power in self.counts else table[power].copy()

    @property
    def bytes(self) -> int:
        """Memory of the counts."""
        return sum(counts.nbytes for counts in self.counts.values())

    def _merge(self, count: int, mean: float, spread: float) -> None:
        """Join means and spreads of two parts without the cancellation of sums of squares (Chan et al., 1979)."""
        total = self.finite + count
        step = mean - self.mean
        self.spread += spread + step * step * self.finite * count / total
        self.mean += step * count / total
        self.finite = total

    def result(self, path: str, shape: tuple[int, ...]) -> TensorStatistics:
        """Return the description; there is at least one finite value."""
        edges, counts = self._ascending()
        power = self.spread / self.finite
        return TensorStatistics(
            path=path,
            shape=shape,
            count=self.count,
            nan=self.nan,
            infinite=self.count - self.nan - self.finite,
            minimum=self.low,
            maximum=self.high,
            absmax=max(-self.low, self.high),
            mean=self.mean,
            std=math.sqrt(power),
            second_moment=power + self.mean**2,
            zeros=self.zeros / self.finite,
            percentiles={f"{p:g}": self._percentile(p, edges, counts) for p in self.config.percentiles},
            histogram=self._histogram(edges, counts),
        )

    def _ascending(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the classes from the one of the least value to that of the greatest: borders and counts."""
        table = np.zeros((512, 1 << self.config.resolution), np.int64)
        for power, row in self.counts.items():
            table[power] = row
        flat, half = table.reshape(-1), table.size // 2
        top = np.arange(half + 1, dtype=np.uint32) << self.shift  # borders of the classes of positive values
        with np.errstate(over="ignore", invalid="ignore"):
            borders = np.nan_to_num(top.view(np.float32).astype(np.float64), nan=math.inf)
        borders = np.concatenate((-borders[:0:-1], borders))
        counts = np.concatenate((flat[: half - 1 : -1], flat[:half]))
        used = np.flatnonzero(counts)
        first, last = int(used[0]), int(used[-1])
        borders, counts = borders[first : last + 2].copy(), counts[first : last + 1]
        borders[0], borders[-1] = self.low, self.high
        return borders.clip(self.low, self.high), counts  # float64 may round into the class beyond the greatest value

    def _percentile(self, percent: float, borders: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> float:
        """Return the value of the element of rank ``floor(percent * (n - 1))``, to the width of its class."""
        rank = math.floor(percent / 100 * (self.finite - 1))
        upto = np.cumsum(counts)
        i = int(np.searchsorted(upto, rank, side="right"))
        low, high, inside = float(borders[i]), float(borders[i + 1]), rank - int(upto[i] - counts[i])
        if low <= 0.0 <= high and high - low < SMALLEST:  # zero, or next to it
            return min(max(0.0, self.low), self.high)
        return low + (high - low) * inside / max(1, int(counts[i]) - 1)

    def _histogram(self, borders: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> Histogram:
        """Spread each class evenly over the bins that it meets, then round the running sums, so that none is lost."""
        if self.low == self.high:
            return Histogram(self.low, self.high, (self.finite,))
        bins = np.linspace(self.low, self.high, self.config.bins + 1)
        upto = np.concatenate(([0.0], np.cumsum(counts)))
        running = np.interp(bins, borders, upto)
        running[0], running[-1] = 0, self.finite
        return Histogram(self.low, self.high, tuple(int(n) for n in np.diff(np.rint(running).astype(np.int64))))
