"""Data sets: three fixed splits of inputs and labels, from packages and from local files; nothing is fetched."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mase.data.tokens import Tokenizer
from mase.errors import ConfigError, ToolError
from mase.options import call
from mase.registry import Registry

SPLIT_SEED = 0  # a split is part of its data set, whatever the seed of a run
HELD_OUT = 0.2  # share of the test split, and then of the validation split in what is left
Task = Literal["classes", "tokens", "values"]  # what labels are


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and labels of one split.

    Args:
        x: ``[samples, ...]`` float32, or token ids ``[samples, window]`` int64.
        y: classes ``[samples]`` int64, next tokens ``[samples, window]`` int64, values ``[samples, outputs]`` float32.
        others: further inputs of a model that takes several, in the order of its arguments.
    """

    x: Tensor
    y: Tensor
    others: tuple[Tensor, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All inputs of the model."""
        return self.x, *self.others

    def at(self, index: Tensor | slice) -> Split:
        """Return some samples."""
        return Split(self.x[index], self.y[index], others=tuple(x[index] for x in self.others))


@dataclass(frozen=True, eq=False)
class Passage(Split):
    """A text as tokens, and as the windows that follow each other in it; windows are views of ``ids``.

    Args:
        ids: the whole text ``[tokens]`` int64. bytes: of it in UTF-8.
    """

    ids: Tensor
    bytes: int


@dataclass(frozen=True, eq=False)
class Data:
    """Train on ``train``, choose on ``validation``, score ``test`` once.

    Args:
        task: what the labels are: classes, next tokens, or values. tokenizer: of a text; its splits are passages.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    _: KW_ONLY
    task: Task = "classes"
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            if not len(getattr(self, part)):
                raise ConfigError(f"data {self.name}: no samples are left for {part}; more are needed")

    def digest(self) -> str:
        """Return a digest of all inputs and labels."""
        found = hashlib.sha256(self.task.encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.x, split.y, *split.others):
                found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def reconstructed(self) -> Data:
        """Return the same samples with themselves, flattened, for labels: what an autoencoder is trained on."""
        parts = (replace(split, y=split.x.flatten(1)) for split in (self.train, self.validation, self.test))
        return Data(self.name, *parts, task="values")


DATASETS: Registry[Callable[..., Data]] = Registry("data", "mase.data")  # name -> function of options


def load(name: str, options: Mapping[str, Any] | None = None, home: Path | None = None) -> Data:
    """Load a registered data set.

    Args:
        options: keyword arguments of the data set. home: what a relative option ``path`` is relative to.

    Raises:
        ConfigError: the name or an option is unknown, a value is impossible, or a file is absent or damaged.
    """
    return call(DATASETS[name], options or {}, f"data {name}", home)


def split_by_class(name: str, x: Tensor, y: Tensor) -> Data:
    """Split samples into 64 % train, 16 % validation and 20 % test, each with every class in its share."""
    from sklearn.model_selection import train_test_split

    index, labels = np.arange(len(y)), y.numpy()
    try:
        rest, test = train_test_split(index, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
        train, validation = train_test_split(rest, test_size=HELD_OUT, stratify=labels[rest], random_state=SPLIT_SEED)
    except ValueError:
        fewest = f"{len(y)} samples, {np.unique(labels, return_counts=True)[1].min(initial=len(y))} of the rarest class"
        raise ConfigError(f"data {name}: {fewest}; each class needs a few to be in every split") from None
    return Data(name, *(Split(x[part], y[part]) for part in (train, validation, test)))


def split_at_random(name: str, x: Tensor, y: Tensor, task: Task = "classes") -> Data:
    """Split samples into 64 % train, 16 % validation and 20 % test, by one fixed shuffle."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = round(len(y) * HELD_OUT)
    validation = round((len(y) - test) * HELD_OUT)
    parts = order[test + validation :], order[test : test + validation], order[:test]
    return Data(name, *(Split(x[part], y[part]) for part in parts), task=task)


def standardised(data: Data) -> Data:
    """Shift and scale each feature by mean and deviation of the train split; a constant feature is only shifted."""
    mean, deviation = data.train.x.mean(0), data.train.x.std(0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    parts = [Split((s.x - mean) / scale, s.y) for s in (data.train, data.validation, data.test)]
    return Data(data.name, *parts, task=data.task)


def table(name: str, features: NDArray[Any], classes: NDArray[Any]) -> Data:
    """Return a small table of features ``[samples, features]`` and classes, split by class and standardised."""
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(classes, dtype=torch.int64)
    return standardised(split_by_class(name, x, y))


def needs(package: str, extra: str, why: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ToolError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ToolError(f"{why} needs the package {package} ({error}); pip install 'mase-dse[{extra}]'") from None


def existing(name: str, folder: Path, files: Sequence[str]) -> Path:
    """Return the first of these files that a folder holds.

    Raises:
        ConfigError: it holds none of them.
    """
    for file in files:
        if (folder / file).is_file():
            return folder / file
    raise ConfigError(f"data {name}: {folder}: no {' or '.join(files)}{held(folder)}")


def held(folder: Path) -> str:
    """Return what a folder holds, for an error."""
    if not folder.is_dir():
        return "; there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"; it holds {', '.join(names[:8]) or 'nothing'}{' ...' if len(names) > 8 else ''}"
