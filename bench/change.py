"""One change in a search: a residual network of 20 layers, scored anew after the format of one tensor has changed.

An evaluation fits formats, builds operators, solves the lanes of the whole graph and runs the exact integers of 128
images. The whole is the first evaluation of a network in a process that has evaluated another one, so that nothing is
kept but nothing is loaded either. A change is one of weights or of results, at every layer in turn, to a format that
the tensor has not had; the figure is the mean.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn

from bench.common import Figure, cpu_seconds, in_fresh_process, main
from mase.cost.folding import Wiring, fold
from mase.frontend.module import trace_module
from mase.scoring import Scorer, Target, space
from passes.fuse import fuse
from passes.quantize import ranges

HERE = "bench.change"
BLOCKS, CHANNELS, SIZE = 9, 16, 8  # two layers a block, one before them and one behind
IMAGES, CLASSES = 128, 10
ROUNDS = 3
BEFORE, AFTER = "int8", "int6"
TARGET = Target("xcup", 9216)


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.second(self.relu(self.first(x))))  # type: ignore[no-any-return]  # a tensor


class Task:
    """A graph with its data; weights and images are random, for accuracy is not the question."""

    def __init__(self, channels: int) -> None:
        torch.manual_seed(0)
        body = [Residual(channels) for _ in range(BLOCKS)]
        layers = nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), *body, nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(channels * SIZE**2, CLASSES)).eval()
        self.x, self.labels = torch.randn(IMAGES, 3, SIZE, SIZE), torch.randint(0, CLASSES, (IMAGES,))
        self.graph = fuse(trace_module(model, (self.x[:2],))[0])[0]
        self.samples = ranges(self.graph, [self.x])

    def scorer(self) -> Scorer:
        """Return an evaluator that has nothing cached."""
        return Scorer(self.graph, self.x, self.labels, self.samples, TARGET)


def seconds(scorer: Scorer, point: dict[str, str]) -> float:
    """Return the CPU seconds of one evaluation."""
    start = cpu_seconds()
    assert scorer(point)["legal"], "every point can be built"
    return cpu_seconds() - start


def folding_seconds(scorer: Scorer, point: dict[str, str]) -> float:
    """Return the CPU seconds of the lanes of the whole graph, with the prices of all parts at hand."""
    lowered, wiring = scorer.lowered(point), Wiring.of(scorer.nodes)
    ops = [lowered.op(node) for node in scorer.nodes]
    start = cpu_seconds()
    fold(scorer.nodes, ops, TARGET.device, TARGET.interval, None, wiring)
    return cpu_seconds() - start


def cold() -> tuple[float, float, float]:
    """Return the CPU seconds of a whole evaluation, of one after a change, and of the lanes alone."""
    other, task = Task(CHANNELS // 2), Task(CHANNELS)
    names = space(task.graph, (BEFORE,), (BEFORE,)).names
    point = dict.fromkeys(names, BEFORE)
    other.scorer()(point)
    scorer = task.scorer()
    whole = seconds(scorer, point)
    changed = statistics.mean(seconds(scorer, {**point, name: AFTER}) for name in names[1:])
    return whole, changed, folding_seconds(scorer, point)


def measure() -> list[Figure]:
    """Score the network whole, then after each change."""
    rounds = [in_fresh_process(HERE, "cold") for _ in range(ROUNDS)]
    whole, changed, lanes = (statistics.median(column) for column in zip(*rounds, strict=True))
    return [
        Figure("change_whole", whole, "CPU s"),
        Figure("change_one", changed, "CPU s"),
        Figure("change_share", statistics.median(one / all_ for all_, one, _ in rounds), "x whole", at_most=0.35),
        Figure("change_folding", lanes, "CPU s", at_most=0.2),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
