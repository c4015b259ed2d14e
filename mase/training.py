"""Train a classifier in seconds: Adam, cross entropy, cosine schedule, one thread, one seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.config import TrainConfig
from mase.data.base import Data, Split


def train(model: nn.Module, data: Data, config: TrainConfig, seed: int, progress: Callable[[int, float], None]) -> None:
    """Train in place and leave the model in evaluation mode; the same seed gives the same weights.

    Args:
        progress: called after each epoch with its number and the mean loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.rate, weight_decay=config.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs)
    model.train()
    for epoch in range(config.epochs):
        order, total = torch.randperm(len(data.train), generator=generator), 0.0
        for batch in order.split(config.batch):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(data.train.x[batch]), data.train.y[batch])
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        schedule.step()
        progress(epoch, total / len(data.train))
    model.eval()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit, the first of equals, is at the label."""
    return float((logits.argmax(1) == labels).double().mean())


def score(model: Callable[[Tensor], Tensor], split: Split) -> float:
    """Return the accuracy of a model on a split."""
    with torch.no_grad():
        return accuracy(model(split.x), split.y)
