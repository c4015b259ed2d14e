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
        ConfigError: shapes do not fit, there are no samples, a label is not a class, or ``top`` is not in 1..classes.
    """
    for name, given in (("logits", logits), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise ConfigError(f"accuracy: {name}: found {type(given).__name__}; allowed is a tensor")
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        shapes = f"logits {list(logits.shape)}, labels {list(labels.shape)}"
        raise ConfigError(f"accuracy: {shapes}; allowed are [samples, classes] and [samples], with a sample or more")
    if not 1 <= top <= logits.shape[1]:
        raise ConfigError(f"accuracy: top {top}; allowed are 1..{logits.shape[1]}")
    if labels.is_floating_point() or not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        found = f"labels {labels.dtype} from {labels.min().item():g} to {labels.max().item():g}"
        raise ConfigError(f"accuracy: {found}; allowed are whole numbers 0..{logits.shape[1] - 1}")
    labels = labels.long()
    own = logits.gather(1, labels.unsqueeze(1))
    before = (logits > own) | logits.isnan()
    equal = (logits == own).cumsum(1).gather(1, labels.unsqueeze(1)).squeeze(1) - 1  # those at lower classes
    hits = (before.sum(1) + equal < top) & ~own.squeeze(1).isnan()
    return float(hits.double().mean())
