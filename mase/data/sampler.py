"""Choose the samples that formats and statistics are calibrated on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mase.data.base import Split
from mase.errors import ConfigError, UnknownName

SEEDS = 2**63


def random(split: Split, count: int, generator: torch.Generator) -> Tensor:
    """Return samples of equal chance, each at most once."""
    return torch.randperm(len(split), generator=generator)[:count]


def stratified(split: Split, count: int, generator: torch.Generator) -> Tensor:
    """Return random samples with each class in its share, to within one sample; a rare class may get none.

    The largest remainders get the samples that whole shares leave over, lower classes first among equals.
    """
    if split.y.dim() != 1 or split.y.is_floating_point():
        raise ConfigError(f"sampler stratified: labels are {list(split.y.shape)} {split.y.dtype}; classes are needed")
    if len(split) and int(split.y.min()) < 0:
        raise ConfigError(f"sampler stratified: label {int(split.y.min())}; allowed are 0 or more")
    sizes = torch.bincount(split.y.long(), minlength=1)
    whole, left = (sizes * count) // max(1, len(split)), (sizes * count) % max(1, len(split))
    extra = left.sort(descending=True, stable=True).indices[: count - int(whole.sum())]
    whole[extra] += 1
    order = torch.randperm(len(split), generator=generator)
    parts = [order[split.y[order] == label][:size] for label, size in enumerate(whole.tolist())]
    chosen = torch.cat(parts)
    return chosen[torch.randperm(len(chosen), generator=generator)]


SAMPLERS: dict[str, Callable[[Split, int, torch.Generator], Tensor]] = {
    "first": lambda split, count, generator: torch.arange(count),
    "random": random,
    "stratified": stratified,
}


def sample(split: Split, count: int, how: str = "random", seed: int = 0) -> Split:
    """Return some samples of a split, all of them where it has no more.

    Args:
        how: ``first``, ``random`` or ``stratified``. seed: the same one chooses the same samples.

    Raises:
        ConfigError: the name is unknown, ``count`` is not positive, or the labels are not classes to stratify by.
    """
    if how not in SAMPLERS:
        raise UnknownName("sampler", how, SAMPLERS)
    if count < 1:
        raise ConfigError(f"sampler {how}: {count} samples; allowed is 1 or more")
    if not -SEEDS <= seed < SEEDS:
        raise ConfigError(f"sampler {how}: seed {seed}; allowed are whole numbers of 64 bits")
    chosen = SAMPLERS[how](split, min(count, len(split)), torch.Generator().manual_seed(seed))
    return split.at(chosen)
