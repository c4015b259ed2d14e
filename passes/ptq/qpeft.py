"""Fine-tuning of low-rank branches on quantized weights: block by block, or of a whole graph (docs/ptq/qpeft.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mase.calib.delta_loss import Loss, next_token
from mase.calib.install import install
from mase.calib.layers import places
from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from mase.graph import Graph
from mase.interpreter import Batch, train, unpacked
from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.blockwise import Runner, batches
from passes.ptq.fields import number, seeded, whole

StepLoss = Callable[[Mapping[str, Tensor], int], Tensor]  # of weights by path, at a step
SPREAD = (0.9, 0.999)


@METHODS.add("qpeft")
@dataclass(frozen=True)
class Qpeft(Method):
    """Train the branches of a block so that it gives what the float block gives; the quantized weights stay.

    Args:
        steps: updates. rate: of AdamW, falls to 0 along a cosine. batch: samples of an update. seed: of their order.
        elastic: train shortcuts around the branch too (H. Qin et al., IR-QLoRA, ICML 2024).
    """

    steps: int = 100
    rate: float = 1e-3
    batch: int = 8
    seed: int = 0
    elastic: bool = False
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "tuning"

    def __post_init__(self) -> None:
        whole("qpeft.steps", self.steps, 1, 1_000_000)
        number("qpeft.rate", self.rate, 0, 1, above=True)
        whole("qpeft.batch", self.batch, 1, 1024)
        seeded("qpeft.seed", self.seed)

    def run(self, block: Block) -> None:
        found = {layer.path: block.packed(layer.path) for layer in block.layers()}
        packed = {path: weight for path, weight in found.items() if weight is not None}
        runner = Runner(block, "qpeft")
        order = list(batches(len(runner.samples), self.batch, self.steps, self.seed))

        def loss(weights: Mapping[str, Tensor], step: int) -> Tensor:
            errors = [
                functional.mse_loss(runner.run(weights, inputs), target) for inputs, target in runner.batch(order[step])
            ]
            return torch.stack(errors).mean()

        for path, weight in tuned(packed, loss, self.steps, self.rate, runner.where, self.elastic).items():
            block.write(path, weight)


def finetune(
    graph: Graph,
    packed: Mapping[str, PackedWeight],
    samples: Sequence[Batch],
    steps: int,
    rate: float = 2e-4,
    loss: Loss = next_token,
    elastic: bool = False,
) -> dict[str, PackedWeight]:
    """Train the branches of a whole graph, as QLoRA does, and return all packed weights.

    Args:
        graph: in float, for all that is not packed, after the folds of the recipe (``PtqReport.folded``).
        packed: by path of the layer. samples: batches, taken in turn.
        loss: of what the graph gives; a language model's by default. elastic: see :class:`Qpeft`.

    Raises:
        ConfigError: no layer has a branch, there are no samples, or the loss is not a number.
    """
    keys = {place.path: place.key for place in places(graph) if place.path in packed and place.expert is None}
    inputs = [unpacked(graph, sample) for sample in samples]
    if not inputs:
        raise ConfigError("finetune: needs training data; pass batches of tokens")
    experts = {path: weight for path, weight in packed.items() if path not in keys}
    graph = install(graph, experts, formats=False)
    frozen = {key: tensor.detach() for key, tensor in graph.tensors.items()}
    dense = {path: weight for path, weight in packed.items() if path in keys}

    def step_loss(weights: Mapping[str, Tensor], step: int) -> Tensor:
        given = inputs[step % len(inputs)]
        return loss(train(graph.on({**frozen, **{keys[path]: w for path, w in weights.items()}}), given), given)

    return {**packed, **tuned(dense, step_loss, steps, rate, "finetune", elastic)}


def tuned(
    packed: Mapping[str, PackedWeight], loss: StepLoss, steps: int, rate: float, where: str, elastic: bool = False
) -> dict[str, PackedWeight]:
    """Return the weights that have branches, with these trained; the others of ``packed`` are held fast.

    Raises:
        ConfigError: there is none, or the loss is not a number.
    """
    dense = {path: weight.dense() for path, weight in packed.items()}
    pairs = {path: weight.branch for path, weight in packed.items() if weight.branch is not None}
    if not pairs:
        raise ConfigError(f"{where}: no layer has a low-rank branch; put a step such as qlora or qera before this one")
    free = {path: _Branch(a.dense(), b.dense(), elastic) for path, (a, b) in pairs.items()}
    optimiser = torch.optim.AdamW([x for part in free.values() for x in part.leaves], rate, SPREAD, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)))
    for step in range(steps):
        weights = {path: dense[path] + free[path].product() if path in free else w for path, w in dense.items()}
        value = loss(weights, step)
        if not bool(torch.isfinite(value)):
            raise ConfigError(f"{where}: the loss is {float(value.detach())} at step {step}; a lower rate may help")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    return {path: replace(packed[path], branch=_rounded(pairs[path], free[path].both())) for path in free}


class _Branch:
    """A branch while it is trained; shortcuts are matrices of means and of copies, times one factor each."""

    def __init__(self, a: Tensor, b: Tensor, elastic: bool) -> None:
        rank = len(a)
        self.means, self.copies = _runs(rank, a.shape[1]), _runs(rank, len(b)).T
        self.means = self.means / self.means.sum(1, keepdim=True)
        self.leaves = [a.requires_grad_(), b.requires_grad_()]
        self.leaves += [torch.zeros((), requires_grad=True) for _ in range(2 if elastic else 0)]

    def both(self) -> tuple[Tensor, Tensor]:
        """Return ``a`` and ``b`` with the shortcuts in them."""
        a, b, *factors = self.leaves
        if not factors:
            return a, b
        return a + factors[0] * self.means, b + factors[1] * self.copies

    def product(self) -> Tensor:
        """Return what the branch multiplies with."""
        a, b = self.both()
        return b @ a


def _runs(count: int, length: int) -> Tensor:
    """Return 1 where a place is in a run, ``[count, length]``; runs are as equal as can be, none is empty."""
    run = torch.arange(length) * count // length
    return (run == torch.arange(count)[:, None]).float()


def _rounded(old: tuple[PackedWeight, PackedWeight], new: tuple[Tensor, ...]) -> tuple[PackedWeight, PackedWeight]:
    a, b = (PackedWeight.of(x.detach(), part.pieces[0].format) for x, part in zip(new, old, strict=True))
    return a, b


def merged(weight: PackedWeight, fmt: str) -> PackedWeight:
    """Return weights without a branch: what it adds is added, and the sum is rounded to a format."""
    if weight.branch is None:
        return weight
    a, b = weight.branch
    return PackedWeight.of(weight.dense() + b.dense() @ a.dense(), parse(fmt))
