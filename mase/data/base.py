"""Data sets: three fixed splits of inputs and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mase.registry import Registry


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs ``[samples, ...]`` (float32) and labels ``[samples]`` (int64)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])


@dataclass(frozen=True, eq=False)
class Data:
    """Train on ``train``, choose on ``validation``, score ``test`` once."""

    name: str
    train: Split
    validation: Split
    test: Split


DATASETS: Registry[Callable[[int], Data]] = Registry("data", "mase.data")  # name -> function of the seed
