"""A study of post-training quantization as a table and a page: recipes beside a baseline of as many stored bits."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from mase.report import text
from mase.report.html import templates
from mase.report.pareto import Line
from mase.report.scale import Scale, Tick
from mase.studyconfig import FLOAT

HIGHEST = 700.0  # loss whose perplexity is a number
Role = Literal["trial", "front", "infeasible"]  # as the style sheet calls a row, one on the front, the baseline's


@dataclass(frozen=True)
class Found:
    """What one cell gave.

    Args:
        model, seed, recipe, format: its place. loss: nats a token. stored_bits, paper_bits: a quantized weight.
        seconds, cpu_seconds: of the quantization; of a float cell, of the training. peak_mib: of the process until
            then. notes: warnings.
        failed: why nothing else is known; empty where all went well.
    """

    model: str = ""
    seed: int = 0
    recipe: str = ""
    format: str = ""
    loss: float | None = None
    bits_per_byte: float | None = None
    stored_bits: float | None = None
    paper_bits: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mib: float | None = None
    notes: tuple[str, ...] = ()
    failed: str = ""

    @property
    def perplexity(self) -> float | None:
        """Of a token."""
        return None if self.loss is None else perplexity(self.loss)


@dataclass(frozen=True)
class Row:
    """A recipe in a format on a model: means over the seeds that went well; perplexity that of the mean loss.

    Args:
        seeds: that went well. spread: of bits per byte, greatest less least. baseline: bits per byte of the baseline
            at as many stored bits; None where it has fewer or more at all its formats.
        closed: part of the baseline's loss of perplexity that is not lost; below 0 where more is lost.
        better: in how many seeds there are fewer bits per byte than the baseline has in this seed.
    """

    model: str
    recipe: str
    format: str
    seeds: int
    bits_per_byte: float
    spread: float
    perplexity: float
    stored_bits: float | None
    paper_bits: float | None
    cpu_seconds: float
    peak_mib: float
    baseline: float | None
    closed: float | None
    better: int | None


@dataclass(frozen=True)
class Table:
    """What a study has found so far.

    Args:
        cells: in all. baseline: name of the recipe that others are held against. found: cells that are done.
    """

    name: str
    cells: int
    baseline: str | None
    rows: tuple[Row, ...]
    found: tuple[Found, ...]

    @property
    def failed(self) -> tuple[Found, ...]:
        """Cells that failed."""
        return tuple(found for found in self.found if found.failed)

    @property
    def notes(self) -> tuple[Found, ...]:
        """Cells that went well, with warnings."""
        return tuple(found for found in self.found if found.notes)

    @property
    def models(self) -> list[str]:
        """Names of the models, in order."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        rows = [asdict(row) for row in self.rows]
        done = [{**asdict(found), "perplexity": found.perplexity} for found in self.found]
        return {"name": self.name, "cells": self.cells, "baseline": self.baseline, "rows": rows, "found": done}


def perplexity(loss: float) -> float:
    """Return the perplexity of a token by its loss."""
    return math.exp(min(loss, HIGHEST))


def assemble(name: str, found: Sequence[Found], cells: int, baseline: str | None) -> Table:
    """Join cells to rows.

    Args:
        found: cells that are done, in order. cells: in all. baseline: name of the recipe to hold others against.
    """
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for one in found:
        if not one.failed:
            groups.setdefault((one.model, one.recipe, one.format), []).append(one)
    curves = {
        place: front((f.stored_bits, f.loss) for f in found if (f.model, f.seed) == place and f.recipe == baseline)
        for place in {(f.model, f.seed): None for f in found}
    }
    rows = [_row(group, groups.get((group[0].model, FLOAT, ""), []), curves) for group in groups.values()]
    return Table(name, cells, baseline, tuple(rows), tuple(found))


Curve = list[tuple[float, float]]  # stored bits and loss, falling


def front(points: Iterable[tuple[float | None, float | None]]) -> Curve:
    """Return the points that no other one beats in bits and loss, by their bits."""
    out: Curve = []
    for bits, loss in sorted((b, y) for b, y in points if b is not None and y is not None):
        if not out or loss < out[-1][1]:
            out += [(bits, loss)]
    return out


def between(curve: Curve, bits: float) -> float | None:
    """Return the loss at a number of bits, linear between points; None below the first, the last one's above it."""
    if not curve or bits < curve[0][0] - 1e-9:
        return None
    for (low, first), (high, last) in pairwise(curve):
        if bits <= high:
            return first + (last - first) * (bits - low) / (high - low)
    return curve[-1][1]


def _row(group: Sequence[Found], floats: Sequence[Found], curves: dict[tuple[str, int], Curve]) -> Row:
    one = group[0]
    losses, bits = _values(group, "loss"), _values(group, "bits_per_byte")
    bases = [between(curves[f.model, f.seed], f.stored_bits) for f in group if f.stored_bits is not None]
    base = fmean(b for b in bases if b is not None) if bases and None not in bases else None
    loss = fmean(losses)
    whole = [f.loss for f in floats if f.loss is not None and f.seed in {g.seed for g in group}]
    return Row(
        one.model,
        one.recipe,
        one.format,
        len(group),
        fmean(bits),
        max(bits) - min(bits),
        perplexity(loss),
        _mean(group, "stored_bits"),
        _mean(group, "paper_bits"),
        fmean(_values(group, "cpu_seconds")),
        max(_values(group, "peak_mib")),
        None if base is None else base * fmean(bits) / loss,
        None if base is None or not whole else _closed(loss, base, fmean(whole)),
        None if base is None else sum(x < b for x, b in zip(losses, bases, strict=True) if b is not None),
    )


def _closed(loss: float, base: float, whole: float) -> float | None:
    gap = perplexity(base) - perplexity(whole)
    return (perplexity(base) - perplexity(loss)) / gap if gap > 0 else None


def _values(group: Sequence[Found], name: str) -> list[float]:
    return [value for found in group if (value := getattr(found, name)) is not None]


def _mean(group: Sequence[Found], name: str) -> float | None:
    values = _values(group, name)
    return fmean(values) if values else None


def csv_of(found: Sequence[Found]) -> str:
    """Return the cells as CSV, a line each."""
    out = io.StringIO()
    names = [field.name for field in fields(Found)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "perplexity"])
    for one in found:
        values = {**asdict(one), "notes": "; ".join(one.notes)}
        writer.writerow([*("" if values[name] is None else values[name] for name in names), one.perplexity or ""])
    return out.getvalue()


HEADS = ("recipe", "format", "paper bits", "stored bits", "bits per byte", "spread", "perplexity")
HELD = ("same bits", "gap closed", "better")  # beside the baseline


def markdown(table: Table) -> str:
    """Return the rows as Markdown, a table for each model."""
    return "\n".join(_markdown(table, model) for model in table.models)


def _markdown(table: Table, model: str) -> str:
    held = () if table.baseline is None else (f"{table.baseline}, {HELD[0]}", *HELD[1:])
    heads = [*HEADS, *held, "CPU s", "MiB"]
    lines = [f"### {model}", "", f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    lines += [f"| {' | '.join(_written(row, bool(held)))} |" for row in table.rows if row.model == model]
    return "\n".join([*lines, ""])


def _written(row: Row, held: bool) -> list[str]:
    """Return the fields of a row as text."""
    bits = [figure(row.paper_bits), figure(row.stored_bits)]
    scores = [figure(row.bits_per_byte, 4), figure(row.spread, 4), f"{row.perplexity:.4g}"]
    closed = "-" if row.closed is None else f"{row.closed:.0%}"
    better = "-" if row.better is None else f"{row.better} of {row.seeds}"
    beside = [figure(row.baseline, 4), closed, better] if held else []
    return [row.recipe, row.format or "-", *bits, *scores, *beside, figure(row.cpu_seconds, 1), f"{row.peak_mib:.0f}"]


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure with so many digits behind its point, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


# -- the page ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A row in a plot; ``x``, ``y`` in percent from the left and from the top."""

    x: float
    y: float
    role: Role
    row: Row


@dataclass(frozen=True)
class Plot:
    """Everything that is drawn.

    Args:
        lines: of the baseline between its formats. level: the float model's bits per byte, from the top; None: unknown.
    """

    title: str
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    level: float | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str


def plots(table: Table, model: str) -> list[Plot]:
    """Return the plots of a model: bits per byte by stored bits, and by seconds."""
    rows = [row for row in table.rows if row.model == model and row.stored_bits is not None]
    whole = next((r.bits_per_byte for r in table.rows if (r.model, r.recipe) == (model, FLOAT)), None)
    if not rows:
        return []
    return [_plot(table, rows, whole, "stored_bits"), _plot(table, rows, whole, "cpu_seconds")]


FIGURES = {"stored_bits": "stored bits a weight", "cpu_seconds": "CPU seconds of the quantization"}


def _plot(table: Table, rows: Sequence[Row], whole: float | None, field: str) -> Plot:
    def at(row: Row) -> float:
        return float(getattr(row, field))

    x = Scale.over([at(row) for row in rows])
    y = Scale.over([*(row.bits_per_byte for row in rows), *([] if whole is None else [whole])])
    best = set(front((at(row), row.bits_per_byte) for row in rows))
    marks = []
    for row in rows:
        role: Role = "front" if (at(row), row.bits_per_byte) in best else "trial"
        role = "infeasible" if row.recipe == table.baseline else role
        marks.append(Mark(round(x.place(at(row)), 2), round(100 - y.place(row.bits_per_byte), 2), role, row))
    line = front((at(row), row.bits_per_byte) for row in rows if row.recipe == table.baseline)
    ends = [(round(x.place(a), 2), round(100 - y.place(b), 2)) for a, b in line]
    lines = tuple(Line(*a, *b) for a, b in pairwise(ends)) if field == "stored_bits" else ()
    notes = {axis: ", log scale" if axis.kind == "log" else "" for axis in (x, y)}
    return Plot(
        f"{rows[0].model}: bits per byte by {FIGURES[field]}",
        tuple(sorted(marks, key=lambda mark: mark.role == "front")),
        lines,
        None if whole is None else 100 - y.place(whole),
        x.ticks(_tick),
        y.ticks(_tick),
        FIGURES[field] + notes[x],
        "bits per byte" + notes[y],
    )


def _tick(value: float) -> str:
    return text.compact(value, above=1000)


def render(table: Table) -> str:
    """Return the page; no script, no request, nothing beside it."""
    return templates().get_template("study.html").render(table=table, plots=lambda model: plots(table, model))
