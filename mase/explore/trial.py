"""What a study asks for and what it keeps: objectives, constraints, finished trials. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mase.errors import ConfigError, suggest
from mase.explore.space import Point


@dataclass(frozen=True)
class Objective:
    """Name a metric and say whether less or more of it is better."""

    name: str
    direction: Literal["minimize", "maximize"] = "minimize"

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise ConfigError(f"objective {self.name!r}: direction {self.direction!r}; allowed: minimize, maximize")

    @property
    def sign(self) -> float:
        """Return the factor that turns the metric into one to be minimised."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Constraint:
    """Bound a metric, in the unit of that metric; a point on the bound is feasible."""

    metric: str
    op: Literal["<=", ">="]
    bound: float

    def __post_init__(self) -> None:
        if self.op not in ("<=", ">="):
            raise ConfigError(f"constraint on {self.metric!r}: operator {self.op!r}; allowed: <=, >=")
        if math.isnan(self.bound):
            raise ConfigError(f"constraint on {self.metric!r}: the bound is NaN")

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return by how much the bound is missed; zero or less where it holds."""
        value = metrics[self.metric]
        if value == self.bound:  # also both infinite, whose difference is NaN
            return 0.0
        return value - self.bound if self.op == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:g}"


@dataclass(frozen=True)
class Trial:
    """Hold one finished trial.

    Args:
        number: 0, 1, ... in the order in which the points were proposed.
        point: what was evaluated.
        metrics: everything that the evaluator returned.
        reused: number of the earlier trial of the same point whose metrics these are, or None.
        seconds: wall time of the evaluation; no part of equality.
    """

    number: int
    point: Point
    metrics: Mapping[str, float]
    reused: int | None = None
    seconds: float = field(default=0.0, compare=False)

    def feasible(self, constraints: Sequence[Constraint]) -> bool:
        """Tell whether every constraint holds."""
        return all(c.violation(self.metrics) <= 0.0 for c in constraints)


def checked_metrics(found: Mapping[str, float], needed: Sequence[str], number: int, point: Point) -> dict[str, float]:
    """Return the metrics as floats, in order of name.

    Raises:
        ConfigError: a needed metric is missing, or one is NaN or no number; the text names metric, trial and point.
    """
    where = f"trial {number} at {point}"
    for name in needed:
        if name not in found:
            raise ConfigError(f"{where}: the evaluator gave no metric {name!r}{suggest(name, found)}")
    metrics = {}
    for name in sorted(found):
        try:
            metrics[name] = float(found[name])
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: metric {name!r} is {found[name]!r}, which is not a number") from None
        if math.isnan(metrics[name]):
            raise ConfigError(f"{where}: metric {name!r} is NaN")
    return metrics
