"""Choose one option a layer (a format, a width) of least total loss within a budget of bits: exact, without a solver.

A multiple-choice knapsack by dynamic programming over the layers. A state is what the layers so far cost; of two states
the one that costs no less and loses no less is dropped, which never drops an optimum.

Source: SignRoundV2 (Intel, 2025) for losses from gradients; W. Huang et al., MC-MoE, ICLR 2025 for experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from mase.errors import ConfigError, suggest

Reals = NDArray[np.float64]
Wholes = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """Hold what each option costs and loses, of one layer or of layers that choose alike.

    Args:
        losses: one a option, finite. bits: stored bits, overhead included, whole.
    """

    losses: tuple[float, ...]
    bits: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.bits or len(self.losses) != len(self.bits):
            found = f"{len(self.losses)} losses and {len(self.bits)} costs"
            raise ConfigError(f"allocation: found {found} of a layer; allowed is one of each for every option")
        if not all(math.isfinite(loss) for loss in self.losses):
            raise ConfigError("allocation: a loss is not finite; allowed are numbers")

    def with_(self, other: Options) -> Options:
        """Return the options of both together, where one choice holds for both."""
        if len(other.bits) != len(self.bits):
            raise ConfigError("allocation: tied layers have different numbers of options")
        losses = (a + b for a, b in zip(self.losses, other.losses, strict=True))
        return Options(tuple(losses), tuple(a + b for a, b in zip(self.bits, other.bits, strict=True)))


def allocate(
    layers: Mapping[str, Options],
    budget: float,
    ties: Iterable[Sequence[str]] = (),
    fixed: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the index of an option for each layer.

    Args:
        layers: options by path. budget: bits of all layers together.
        ties: layers that choose alike, such as ``(q, k, v)``; each layer in one group at most.
        fixed: options that are given, for a layer and those tied to it; their bits are taken off the budget first.

    Raises:
        ConfigError: the budget is too small for any choice, a path is unknown, or ties and fixed options contradict.
    """
    if not math.isfinite(budget):
        raise ConfigError(f"allocation: the budget is {budget} bits; allowed are numbers")
    groups = _groups(layers, ties)
    given = [_given(group, layers, fixed or {}) for group in groups]
    joint = [reduce(Options.with_, (layers[path] for path in group)) for group in groups]
    spent = sum(item.bits[option] for item, option in zip(joint, given, strict=True) if option is not None)
    free = [item for item, option in zip(joint, given, strict=True) if option is None]
    chosen = knapsack(free, math.floor(budget) - spent)
    if chosen is None:
        least = spent + sum(min(item.bits) for item in free)
        raise ConfigError(f"allocation: a budget of {math.floor(budget)} bits is too small; the least is {least}")
    feed = iter(chosen)
    options = [next(feed) if option is None else option for option in given]
    found = {path: option for group, option in zip(groups, options, strict=True) for path in group}
    return {path: found[path] for path in layers}


def knapsack(items: Sequence[Options], budget: int, present: Sequence[int] = ()) -> tuple[int, ...] | None:
    """Return an option for each item: least total loss, of equal ones the fewest bits; None if none fits.

    Args:
        present: options each of which at least one item must take.
    """
    spare = [sum(min(later.bits) for later in items[i + 1 :]) for i in range(len(items))]
    bits, masks, losses = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[Wholes, Wholes]] = []
    for item, rest in zip(items, spare, strict=True):
        flags = np.array([sum(1 << i for i, must in enumerate(present) if must == o) for o in range(len(item.bits))])
        grown = bits[:, None] + np.array(item.bits), masks[:, None] | flags, losses[:, None] + np.array(item.losses)
        kept = _undominated(grown[0].ravel(), grown[1].ravel(), grown[2].ravel(), budget - rest)
        if not len(kept):
            return None
        bits, masks, losses = (part.ravel()[kept] for part in grown)
        trail.append((kept // len(item.bits), kept % len(item.bits)))
    ends = np.flatnonzero((masks == (1 << len(present)) - 1) & (bits <= budget))
    if not len(ends):
        return None
    state = ends[np.lexsort((bits[ends], losses[ends]))[0]]
    chosen = []
    for parents, options in reversed(trail):
        chosen.append(int(options[state]))
        state = parents[state]
    return tuple(reversed(chosen))


def _undominated(bits: Wholes, masks: Wholes, losses: Reals, limit: int) -> Wholes:
    """Return the states to keep: within the limit, and of each mask those that lose less than all cheaper ones."""
    order = np.lexsort((losses, bits, masks))
    order = order[bits[order] <= limit]
    kept = []
    for run in np.split(order, np.flatnonzero(np.diff(masks[order])) + 1):
        best = np.minimum.accumulate(losses[run])
        kept.append(run[np.concatenate([[True], best[1:] < best[:-1]])] if len(run) else run)
    return np.concatenate(kept)


def _groups(layers: Mapping[str, Options], ties: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return all layers in groups that choose alike."""
    tied: dict[str, tuple[str, ...]] = {}
    for group in ties:
        for path in group:
            _known(path, layers)
            if path in tied:
                raise ConfigError(f"allocation: {path} is in two ties; allowed is one")
            tied[path] = tuple(group)
    return list(dict.fromkeys(tied.get(path, (path,)) for path in layers))


def _given(group: Sequence[str], layers: Mapping[str, Options], fixed: Mapping[str, int]) -> int | None:
    """Return the option that is fixed for a group, or None."""
    for path, option in fixed.items():
        _known(path, layers)
        if not 0 <= option < len(layers[path].bits):
            raise ConfigError(f"allocation: {path} is fixed to option {option}; it has {len(layers[path].bits)}")
    options = {fixed[path] for path in group if path in fixed}
    if len(options) > 1:
        raise ConfigError(f"allocation: {', '.join(group)} are tied, and fixed to different options")
    return options.pop() if options else None


def _known(path: str, layers: Mapping[str, Options]) -> None:
    if path not in layers:
        raise ConfigError(f"allocation: no layer is called {path!r}{suggest(path, layers)}")


def expert_bits(
    frequency: Sequence[float],
    weight: Sequence[float],
    errors: Sequence[Sequence[float]],
    budget: int,
    widths: Sequence[int] = (1, 2, 3),
    present: Sequence[int] = (2, 3),
    exponents: tuple[float, float, float] = (1.0, 1.5, 1.0),
) -> tuple[int, ...]:
    """Return bits for each expert of a mixture, by the integer programme of MC-MoE.

    Args:
        frequency: share of tokens that choose each expert. weight: share of the router's weight that it has.
        errors: of the block's output with this expert alone in each of the ``widths``.
        budget: sum of the widths. present: widths that at least one expert must have.
        exponents: of frequency, weight and error; those that the published allocations have.

    Raises:
        ConfigError: no choice meets the budget.
    """
    a, b, c = exponents
    items = [
        Options(tuple(f**a * w**b * error**c for error in row), tuple(widths))
        for f, w, row in zip(frequency, weight, errors, strict=True)
    ]
    check_budget(len(items), budget, widths, present)
    must = [list(widths).index(width) for width in present if len(items) >= len(present)]
    chosen = knapsack(items, budget, must)
    assert chosen is not None
    return tuple(widths[option] for option in chosen)


def check_budget(count: int, budget: int, widths: Sequence[int], present: Sequence[int]) -> None:
    """Refuse a budget of :func:`expert_bits` that no choice for ``count`` experts meets."""
    must = len(present) if count >= len(present) else 0
    least = (sum(present) if must else 0) + (count - must) * min(widths)
    if budget < least:
        raise ConfigError(f"allocation of experts: {budget} bits for {count} experts are too few; the least is {least}")
