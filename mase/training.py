"""Train in seconds or minutes: Adam, a falling rate, one seed; and keep what was trained."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.config import TrainConfig
from mase.data.base import Data, Split, Task
from mase.errors import ConfigError, GraphError
from mase.files import write_atomic
from mase.frontend.check import Output, fields
from mase.metrics.scores import ACCURACY, Score
from mase.paths import cache_dir
from mase.stages import key_of


def train(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    seed: int,
    progress: Callable[[int, float], None],
    outputs: Output = None,
) -> None:
    """Train in place and leave the model in evaluation mode; the same seed gives the same weights.

    Args:
        progress: called after each pass over the data with its number and the mean loss.
        outputs: of a model with several results: those that are built, of which the first is trained.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.rate, weight_decay=config.decay)
    schedule = _schedule(optimiser, config)
    model.train()
    for number, batches in enumerate(_passes(len(data.train), config, generator)):
        total = 0.0
        for batch in batches:
            optimiser.zero_grad()
            part = data.train.at(batch)
            value = loss(data.task, scored(model(*part.inputs), outputs), part.y)
            value.backward()
            if config.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            if config.steps is not None:
                schedule.step()
            total += float(value.detach()) * len(batch)
        if config.steps is None:
            schedule.step()
        progress(number, total / sum(map(len, batches)))
    model.eval()


def loss(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss: cross entropy of classes or of tokens, squared error of values."""
    if task == "values":
        return functional.mse_loss(outputs, labels)
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def _passes(samples: int, config: TrainConfig, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of each shuffled pass over the data; the last one ends where the steps do."""
    left = config.updates(samples)
    while left > 0:
        batches = torch.randperm(samples, generator=generator).split(config.batch)[:left]
        yield batches
        left -= len(batches)


def _schedule(optimiser: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a cosine over the epochs; or over the steps, behind a straight rise."""
    if config.steps is None:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs)
    steps, rise = config.steps, max(1.0, config.warmup * config.steps)
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / rise) * (1 + math.cos(math.pi * step / steps)) / 2
    )


def scored(result: Any, outputs: Output) -> Tensor:  # Any: what a model returned
    """Return the result of a model that is trained and scored: of several the first of those that are built."""
    found: Tensor = next(iter(fields(result, outputs).values()))
    return found


def score(model: Callable[..., Any], split: Split, metric: Score = ACCURACY, outputs: Output = None) -> float:
    """Return the score of a model, or of another function of its inputs, on a split.

    Args:
        outputs: see :func:`train`.

    Raises:
        ConfigError: its labels are not what the metric compares with.
    """
    if metric is ACCURACY and split.y.dim() != 1:
        raise ConfigError(
            f"score: labels are {split.y.dtype} {list(split.y.shape)}; accuracy needs classes of shape [samples]"
        )
    return metric.score(lambda *inputs: scored(model(*inputs), outputs), split)


# -- weights as files -------------------------------------------------------------------------------------------------


def pack(model: nn.Module) -> bytes:
    """Return parameters and persistent buffers as safetensors; a tied one once, under its first name."""
    from safetensors.torch import save

    return save({name: tensor.detach().contiguous() for name, tensor in _owned(model).items()})


def unpack(model: nn.Module, data: bytes, where: str) -> None:
    """Give a model the weights that :func:`pack` or another program wrote; tied ones may stand under every name.

    Args:
        where: what the data is called in errors.

    Raises:
        GraphError: the file is not a safetensors file, or its names or shapes are not those of the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(data)
        missing, unknown = sorted(_owned(model).keys() - found.keys()), sorted(found.keys() - model.state_dict().keys())
        if missing or unknown:
            text = f"{missing[0]!r} is missing" if missing else f"the model has no {unknown[0]!r}"
            raise GraphError(f"{where}: weights do not fit the model: {text}")
        model.load_state_dict(found, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise GraphError(f"{where}: weights do not fit the model: {' '.join(str(error).split())[:200]}") from None


def _owned(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model, every tensor under its first name only."""
    kept: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not any(tensor is other for other in kept.values()):
            kept[name] = tensor
    return kept


def trained(build: Callable[[], nn.Module], data: Data, config: TrainConfig, seed: int = 0) -> nn.Module:
    """Return a model that was trained so before, else train it now and keep it in the cache.

    The key is the content: data, configuration, seed, first weights, source of the model and of this file, version of
    PyTorch and number of threads. Global random numbers are left as they were.

    Args:
        build: makes the model; its weights are drawn from ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    source = inspect.getsource(sys.modules[type(model).__module__])
    facts = (config.model_dump(), seed, torch.__version__, torch.get_num_threads(), source, repr(model), data.digest())
    key = key_of(*facts, pack(model).hex(), Path(__file__))
    path = cache_dir() / "models" / f"{key}.safetensors"
    if path.is_file():
        try:
            unpack(model, path.read_bytes(), str(path))
            return model.eval()
        except GraphError:
            path.unlink(missing_ok=True)  # damaged: train again
    train(model, data, config, seed, lambda number, mean: None)
    write_atomic(path, pack(model))
    return model
