"""Draw points independently: the yardstick of every other strategy, and the one with the least overhead."""

from __future__ import annotations

from mase.explore.space import Point
from mase.explore.strategy import STRATEGIES, Problem, Sampling


@STRATEGIES.add("random")
class Random(Sampling):
    """Draw each active axis uniformly; trial n depends on the seed and n alone."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def propose(self, number: int) -> Point:
        """Draw a point."""
        return self.problem.space.sample(self.problem.rng(number))
