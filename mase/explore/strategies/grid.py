"""Visit every point once, in order."""

from __future__ import annotations

from mase.explore.space import Point
from mase.explore.strategy import STRATEGIES, Problem, Strategy


@STRATEGIES.add("grid")
class Grid(Strategy):
    """Propose the points of the space in order of index; the study ends when all are seen."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def ask(self, number: int) -> Point:
        """Return the point with index ``number``."""
        return self.problem.space.point(number)

    def limit(self) -> int | None:
        """Return the number of points."""
        return self.problem.space.size
