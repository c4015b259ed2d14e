"""Share of samples whose class is among the largest logits."""

from __future__ import annotations

from torch import Tensor

from mase.errors import ConfigError


def accuracy(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """Return the share of rows whose label is among the ``top`` largest logits; of equal ones the first comes first.

    Args:
        logits: ``[samples, classes]``; NaN counts as the largest, and as no hit where it is at the label.
        labels: ``[samples]`` classes.

    Raises:
        ConfigError: the shapes do not fit, there are no samples, or ``top`` is not one of 1..classes.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        shapes = f"logits {list(logits.shape)}, labels {list(labels.shape)}"
        raise ConfigError(f"accuracy: {shapes}; allowed are [samples, classes] and [samples], with a sample or more")
    if not 1 <= top <= logits.shape[1]:
        raise ConfigError(f"accuracy: top {top}; allowed are 1..{logits.shape[1]}")
    own = logits.gather(1, labels.unsqueeze(1))
    before = (logits > own) | logits.isnan()
    equal = (logits == own).cumsum(1).gather(1, labels.unsqueeze(1)).squeeze(1) - 1  # those at lower classes
    hits = (before.sum(1) + equal < top) & ~own.squeeze(1).isnan()
    return float(hits.double().mean())
