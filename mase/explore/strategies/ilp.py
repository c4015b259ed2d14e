"""Integer programming over tables of additive damage and cost: exact under its model, for any number of axes."""

from __future__ import annotations

from mase.errors import ConfigError
from mase.explore.choice import Tables, sweep
from mase.explore.space import Point
from mase.explore.strategy import STRATEGIES, Problem, Sampling


@STRATEGIES.add("ilp")
class Ilp(Sampling):
    """Propose the first points, then the designs of the budget sweep, the cheapest first; then it has no more.

    Args:
        problem: what to search.
        tables: damage and cost a value; ``mase.explore.choice.sensitivity`` measures the damage.
        steps: budgets of the sweep, at least 2.

    Raises:
        ConfigError: there are no tables, or they do not fit the space.

    Source: multiple-choice knapsack with an epsilon-constraint sweep, as in HAWQ-V3, 2021.
    """

    def __init__(self, problem: Problem, tables: Tables | None = None, steps: int = 13) -> None:
        self.problem = problem
        self._designs = designs("ilp", problem, tables, steps)

    def propose(self, number: int) -> Point:
        """Return the next design of the sweep."""
        return self._designs[number - len(self.problem.first)]

    def limit(self) -> int | None:
        """Return the number of first points and designs."""
        return len(self.problem.first) + len(self._designs)


def designs(strategy: str, problem: Problem, tables: Tables | None, steps: int) -> tuple[Point, ...]:
    """Return the points of the sweep that are not among the problem's first points.

    Raises:
        ConfigError: there are no tables; the text names ``strategy``.
    """
    if tables is None:
        raise ConfigError(
            f"strategy {strategy}: needs option tables, the damage and cost of each value of each axis; the evaluator "
            "gives none (random, tpe and nsga2 need none)"
        )
    found = (design.point for design in sweep(problem.space, tables, steps))
    return tuple(point for point in found if point not in problem.first)
