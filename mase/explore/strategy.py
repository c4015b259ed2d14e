"""What a search strategy is: asked for the point of trial number n, told of every finished trial."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mase.errors import ConfigError, UnknownName
from mase.explore.space import Point, Space
from mase.explore.trial import Constraint, Objective, Trial
from mase.registry import Registry


@dataclass(frozen=True)
class Problem:
    """Hold all that a strategy may know.

    Args:
        space: what may be proposed.
        objectives: at least one.
        constraints: bounds on metrics.
        seed: of all randomness.
        workers: trials in flight at a time.
        first: points that a sampling strategy proposes before any of its own.
    """

    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    workers: int = 1
    first: tuple[Point, ...] = ()

    def rng(self, number: int) -> np.random.Generator:
        """Return the generator of one trial: the same whether or not the study was interrupted before it."""
        return np.random.default_rng((self.seed, number))

    def sampler_seed(self, number: int) -> int:
        """Return the 31-bit seed of one trial for samplers that take an integer."""
        return int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0]) >> 1


class Strategy(ABC):
    """Propose points.

    ``ask(n)`` depends on the problem, n and the trials told so far, on nothing else: that makes a resumed study equal
    to an uninterrupted one.
    """

    problem: Problem

    @abstractmethod
    def ask(self, number: int) -> Point:
        """Return the point of trial ``number``."""

    def tell(self, trial: Trial) -> None:  # noqa: B027 - many strategies learn nothing
        """Learn from a finished trial, be it from this run or from an earlier one."""

    def limit(self) -> int | None:
        """Return the most trials that this strategy can propose; None where there is no end."""
        return None


class Sampling(Strategy):
    """Propose the problem's first points, then whatever ``propose`` draws."""

    def ask(self, number: int) -> Point:
        """Return the point of trial ``number``."""
        first = self.problem.first
        return first[number] if number < len(first) else self.propose(number)

    @abstractmethod
    def propose(self, number: int) -> Point:
        """Draw the point of trial ``number``, which comes after the first points."""


STRATEGIES: Registry[Callable[..., Strategy]] = Registry("strategy", "mase.explore.strategies")


def build(name: str, problem: Problem, options: Mapping[str, Any]) -> Strategy:  # each strategy has its own options
    """Make the strategy ``name``; raise ``ConfigError`` where the name or an option is unknown or impossible."""
    factory = STRATEGIES[name]
    allowed = [option for option in inspect.signature(factory).parameters if option != "problem"]
    for option in options:
        if option not in allowed:
            raise UnknownName(f"strategy {name}: option", option, allowed)
    try:
        return factory(problem, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"strategy {name}: {error}") from error
