"""NSGA-II that starts from designs of the integer program: for a hundred axes and more."""

from __future__ import annotations

from dataclasses import replace

from mase.explore.choice import Tables
from mase.explore.strategies.ilp import designs
from mase.explore.strategies.nsga2 import Nsga2
from mase.explore.strategy import STRATEGIES, Problem


@STRATEGIES.add("seeded")
class Seeded(Nsga2):
    """Breed from a first generation of uniform designs, designs of the budget sweep and random points.

    Args:
        problem: what to search.
        tables: damage and cost a value; they may be rough, for every design is evaluated.
        steps: budgets of the sweep, at least 2.
        population: trials of a generation.
        mutation: probability that an axis is drawn anew; 1.5/axes by default.

    Raises:
        ConfigError: there are no tables, or they do not fit the space.
    """

    def __init__(
        self,
        problem: Problem,
        tables: Tables | None = None,
        steps: int = 13,
        population: int = 32,
        mutation: float | None = None,
    ) -> None:
        first = (*problem.first, *designs("seeded", problem, tables, steps))
        rate = min(1.0, 1.5 / len(problem.space.free)) if mutation is None else mutation
        super().__init__(replace(problem, first=first), population, rate)
