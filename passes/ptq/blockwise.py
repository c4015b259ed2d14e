"""What methods share that tune all layers of a block at once: its differentiable run on chosen weights, and samples."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mase import interpreter
from mase.errors import ConfigError, MaseError
from mase.graph import Graph
from passes.ptq.base import Block, Layer

EXPERT = re.compile(r"(.*)\.(\w+)\[(\d+)\]")
Seen = Callable[[Tensor], Tensor]


class Kept(ABC):
    """What is tuned, and what of it was best so far."""

    kept: tuple[Tensor, ...] = ()

    @abstractmethod
    def state(self) -> tuple[Tensor, ...]:
        """Return what is tuned."""

    def keep(self) -> None:
        """Remember what is tuned."""
        if not self.kept:
            self.kept = tuple(t.detach().clone() for t in self.state())
        for kept, now in zip(self.kept, self.state(), strict=True):
            kept.copy_(now.detach())

    def back(self) -> None:
        """Return to what is remembered."""
        for kept, now in zip(self.kept, self.state(), strict=True):
            now.data.copy_(kept)


class Runner:
    """Run a block on other weights, with gradients, on several samples at once.

    Inputs that all samples have in common, such as the angles of positions, are shared; the others are put behind each
    other. Where a block does not take that, or samples differ in length, samples run one after the other.
    """

    def __init__(self, block: Block, where: str) -> None:
        self.where = f"{where}: block {block.name}"
        self.graph: Graph = block.graph
        self.samples, self.targets = list(block.samples()), [t.detach() for t in block.targets()]
        if not self.samples:
            raise ConfigError(f"{self.where}: needs calibration data; pass calibration tokens")
        first = self.samples[0]
        self._shared = [all(_same(sample[i], x) for sample in self.samples[1:]) for i, x in enumerate(first)]
        shapes = {tuple(tuple(x.shape) for x in sample) for sample in self.samples}
        self.together = len(shapes) == 1 and not all(self._shared) and self._joins()

    def batch(self, which: Sequence[int]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """Return samples as few runs: inputs and targets."""
        if not self.together:
            return [(self.samples[i], self.targets[i]) for i in which]
        picked = [self.samples[i] for i in which]
        inputs = tuple(
            x if self._shared[i] else torch.cat([sample[i] for sample in picked]) for i, x in enumerate(picked[0])
        )
        return [(inputs, torch.cat([self.targets[i] for i in which]))]

    def run(self, weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the block's first output on the given weights, by path of the layer."""
        return interpreter.train(self.with_weights(weights), inputs)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Graph:
        """Return the block's graph on the given weights; experts of one tensor are stacked."""
        tensors, stacks = dict(self.graph.tensors), dict[str, dict[int, Tensor]]()
        for path, weight in weights.items():
            key, expert = place(self.graph, path)
            if expert is None:
                old = tensors[key]
                tensors[key] = weight if old.shape == weight.shape else weight.reshape(old.shape)
            else:
                stacks.setdefault(key, {})[expert] = weight
        for key, parts in stacks.items():
            tensors[key] = torch.stack([parts.get(i, whole) for i, whole in enumerate(tensors[key])])
        return self.graph.on(tensors)

    def backward(
        self, weights: Mapping[str, Tensor], which: Sequence[int], seen: Seen | None = None, mean: bool = True
    ) -> float:
        """Return the mean squared error of some samples, and leave its gradients where the weights come from.

        Args:
            seen: makes of an error the share of each element that counts. mean: gradients are those of the mean, not
                of the sum; the signs are the same.
        """
        runs, total = self.batch(which), 0.0
        count = sum(target.numel() for _, target in runs)
        leaves = {path: w if w.is_leaf else w.detach().requires_grad_() for path, w in weights.items()}
        for inputs, target in runs:
            with torch.enable_grad():
                error = self.run(leaves, inputs) - target
                error = error if seen is None else error * seen(error.detach())
                loss = error.square().sum()
                loss = loss / count if mean else loss
            loss.backward()
            total += float(loss.detach()) if mean else float(loss.detach()) / count
        behind = [p for p, leaf in leaves.items() if leaf is not weights[p] and leaf.grad is not None]
        torch.autograd.backward([weights[path] for path in behind], [leaves[path].grad for path in behind])
        return total

    def loss(self, weights: Mapping[str, Tensor], which: Sequence[int]) -> float:
        """Return the mean squared error of some samples."""
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs, target in self.batch(which):
                total += float((self.run(weights, inputs) - target).square().sum())
                count += target.numel()
        return total / count

    def checked(self, loss: float, step: int) -> float:
        """Return a loss that is a number.

        Raises:
            ConfigError: it is not: names the block.
        """
        if not loss == loss or loss == float("inf"):
            raise ConfigError(f"{self.where}: the loss is {loss} at step {step}; the blocks before are kept")
        return loss

    def _joins(self) -> bool:
        """Tell whether a run on two samples gives what two runs give."""
        if len(self.samples) < 2:
            return False
        self.together = True
        try:
            ((inputs, _),) = self.batch([0, 1])
            with torch.no_grad():
                both = self.run({}, inputs)
                apart = self.run({}, self.samples[1])  # the second: were samples mixed, it would have the first in it
        except (RuntimeError, ValueError, IndexError, MaseError):
            return False
        both = both[len(apart) :]
        if both.shape != apart.shape or not bool(torch.isfinite(apart).all()):
            return False
        return torch.allclose(both, apart, rtol=1e-3, atol=1e-4 * float(apart.abs().max()))


def place(graph: Graph, path: str) -> tuple[str, int | None]:
    """Return the key of a layer's weights in the table of tensors, and the number of its expert."""
    found = EXPERT.fullmatch(path)
    if found is None:
        return graph.node(path).record.key("weight"), None
    return graph.node(found[1]).record.key(found[2]), int(found[3])


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def straight(x: Tensor) -> Tensor:
    """Round; the gradient passes."""
    return (x.round() - x).detach() + x


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield ``steps`` lists of samples: shuffled, and shuffled anew where fewer than a batch are left."""
    draw = torch.Generator().manual_seed(seed)
    size, order = min(size, count), list[int]()
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count, generator=draw).tolist()
        yield order[:size]
        order = order[size:]


def named(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the weights of layers by path."""
    return {layer.path: layer.weight for layer in layers}
