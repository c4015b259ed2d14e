"""The plot of a search: every trial by cost and score, the front, the chosen design, the float model's score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mase.report import text
from mase.report.scale import Scale, Tick
from mase.report.summary import Accuracy, Search, SearchPoint

MOST_MARKS = 600  # of trials off the front: the page stays small enough to mail
MOST_AXES = 12  # shown when the pointer rests on a point

Role = Literal["trial", "infeasible", "front", "chosen"]


@dataclass(frozen=True)
class Mark:
    """One trial in the plot.

    Args:
        x, y: place in percent from the left and from the top. front: none dominates it, whatever its role.
        point: the trial. axes: the first of its choices. more: how many choices are not shown.
    """

    x: float
    y: float
    role: Role
    front: bool
    point: SearchPoint
    axes: tuple[tuple[str, str], ...]
    more: int


@dataclass(frozen=True)
class Line:
    """A segment in percent from the left and from the top."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Level:
    """A score that others are held against; ``y`` in percent from the top."""

    y: float
    label: str
    role: Literal["float", "limit"]


@dataclass(frozen=True)
class Plot:
    """Everything that is drawn, in order; ``hidden``: trials off the front that are left out."""

    marks: tuple[Mark, ...]
    steps: tuple[Line, ...]
    levels: tuple[Level, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    hidden: int


def plot(search: Search, accuracy: Accuracy) -> Plot | None:
    """Return the plot of a search, or None where it has no point."""
    if not search.points:
        return None
    metric, base = accuracy.metric, accuracy.float_validation
    worst = text.limit(base, accuracy.tolerance, metric)
    unit = f" in {text.UNITS[metric]}" if metric in text.UNITS else ""
    x = Scale.over([p.cost for p in search.points])
    y = Scale.over([*(p.accuracy for p in search.points), base, worst], metric == "accuracy", metric in text.UNITS)
    marks = tuple(_mark(p, role, front, x, y) for p, role, front in _shown(search))
    levels = (
        Level(100 - y.place(base), f"float: {text.score(base, metric)}", "float"),
        Level(100 - y.place(worst), f"allowed: {text.score(worst, metric)}", "limit"),
    )
    return Plot(
        marks=marks,
        steps=_steps([m for m in marks if m.front]),
        levels=levels if accuracy.tolerance else levels[:1],
        x_ticks=x.ticks(_tick),
        y_ticks=y.ticks(lambda v: f"{100 * v:.4g} %" if text.is_fraction(metric) else _tick(v)),
        x_label="cost in LUT-equivalents" + _note(x),
        y_label=f"{metric}{unit} on the validation split" + _note(y),
        hidden=len(search.points) - len(marks),
    )


def _tick(value: float) -> str:
    return text.compact(value, above=1000)


def _note(scale: Scale) -> str:
    return {"linear": "", "log": ", log scale", "error": f", log scale of 1 {text.MINUS} value"}[scale.kind]


def _shown(search: Search) -> list[tuple[SearchPoint, Role, bool]]:
    """Return trials with role and whether on the front: others thinned evenly, the front by cost, the chosen on top."""
    best = {p.trial for p in search.pareto}
    chosen = [p for p in search.points if p.trial == search.chosen]
    front = sorted((p for p in search.points if p.trial in best - {search.chosen}), key=lambda p: (p.cost, p.trial))
    others = [p for p in search.points if p.trial not in best | {search.chosen}]
    thinned = others[:: max(1, math.ceil(len(others) / MOST_MARKS))]
    return [
        *((p, _plain(p), False) for p in thinned),
        *((p, "front", True) for p in front),
        *((p, "chosen", p.trial in best) for p in chosen),
    ]


def _plain(point: SearchPoint) -> Role:
    return "trial" if point.feasible else "infeasible"


def _mark(point: SearchPoint, role: Role, front: bool, x: Scale, y: Scale) -> Mark:
    axes = tuple(point.point.items())
    left, top = round(x.place(point.cost), 2), round(100 - y.place(point.accuracy), 2)
    return Mark(left, top, role, front, point, axes[:MOST_AXES], max(0, len(axes) - MOST_AXES))


def _steps(marks: Sequence[Mark]) -> tuple[Line, ...]:
    """Return the best score at each cost; nothing where more than two objectives make the front no line."""
    marks = sorted(marks, key=lambda m: (m.x, m.y))
    ys = [m.y for m in marks]
    if ys not in (sorted(ys), sorted(ys, reverse=True)):
        return ()
    corners = [(Line(a.x, a.y, b.x, a.y), Line(b.x, a.y, b.x, b.y)) for a, b in pairwise(marks)]
    return tuple(line for pair in corners for line in pair)
