"""Draw formats side by side: where their numbers lie, and how far off a value may come out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.files import write_atomic
from mase.formats.base import Format, parse
from mase.formats.svg import COLOURS, GREY, INK, Picture

WIDTH, LEFT, RIGHT = 900, 170, 24
ROW, CURVE = 34, 150  # heights of a value grid and of an error curve
OCTAVES = 12  # of the error curve, below the greatest value
STEPS = 48  # points an octave


def plot(formats: Sequence[str | Format], path: Path | str) -> Path:
    """Write an SVG with the value grid and the error curve of each format; return its path.

    Elements share their block, group or tensor with one element 1, the greatest: scales are those of data up to 1.
    Formats without scale show what lies between -1 and 1.

    Args:
        formats: text forms or formats, 1..8.
        path: ends in ``.svg``.

    Raises:
        FormatError: a text names no format, there are none or too many, or the path ends otherwise.
        MaseError: the file cannot be written.
    """
    path = Path(path)
    chosen = [parse(fmt) if isinstance(fmt, str) else fmt for fmt in formats]
    if not 1 <= len(chosen) <= len(COLOURS):
        raise FormatError(f"plot: {len(chosen)} formats; allowed is 1..{len(COLOURS)}")
    if path.suffix != ".svg":
        raise FormatError(f"plot: the path ends in {path.suffix!r}; allowed is '.svg'")
    write_atomic(path, drawing(chosen))
    return path


def beside_one(fmt: Format, x: Tensor) -> Tensor:
    """Return what each float64 element of a vector becomes when the greatest element beside it is 1."""
    pairs = torch.stack([torch.ones_like(x), x], 1)  # a row each, so that every block holds a 1
    tile = math.prod(getattr(fmt, "outer", ()))
    pairs = pairs.unsqueeze(1).expand(-1, tile, -1) if tile > 1 else pairs
    return fmt.quantize(pairs.contiguous(), fmt.calibrate(pairs))[..., 1].reshape(len(x), -1)[:, 0]


def grid(fmt: Format) -> list[float]:
    """Return the numbers between -1 and 1 that values become, rising."""
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    fine = torch.logspace(-OCTAVES, 0, 2001, base=2, dtype=torch.float64)
    found = beside_one(fmt, torch.cat([x, fine, -fine]))
    return [value for value in found.unique().tolist() if abs(value) < 1 + 1e-3]  # scales are rounded


def error_curve(fmt: Format) -> tuple[Tensor, Tensor]:
    """Return positive values up to 1, and the relative error of each."""
    x = torch.logspace(-OCTAVES, 0, OCTAVES * STEPS + 1, base=2, dtype=torch.float64)
    return x, (beside_one(fmt, x) - x).abs() / x


def drawing(formats: Sequence[Format]) -> str:
    """Return the SVG."""
    top = 44
    curves = top + ROW * len(formats) + 64
    height = curves + (CURVE + 26) * len(formats) + 34
    picture = Picture(WIDTH, height, "Value grids and error curves of " + ", ".join(map(str, formats)))
    picture.text(LEFT, 24, "numbers between -1 and 1, beside a greatest element of 1", 13, "start")
    for i, fmt in enumerate(formats):
        _grid_row(picture, fmt, top + ROW * i, COLOURS[i])
    _axis(picture, top + ROW * len(formats), [(f"{t:g}", (t + 1) / 2) for t in (-1, -0.5, 0, 0.5, 1)])
    picture.text(LEFT, curves - 14, "relative error over the value, each gridline a factor of 10", 13, "start")
    for i, fmt in enumerate(formats):
        _curve_row(picture, fmt, curves + (CURVE + 26) * i, COLOURS[i])
    powers = [(f"2^{p}" if p else "1", 1 + p / OCTAVES) for p in range(-OCTAVES, 1, 2)]
    _axis(picture, curves + (CURVE + 26) * len(formats) - 22, powers)
    return str(picture)


def _across(fraction: float) -> float:
    return LEFT + fraction * (WIDTH - LEFT - RIGHT)


def _axis(picture: Picture, y: float, ticks: Sequence[tuple[str, float]]) -> None:
    picture.line([(_across(0), y), (_across(1), y)], GREY)
    for label, at in ticks:
        picture.line([(_across(at), y), (_across(at), y + 5)], GREY)
        picture.text(_across(at), y + 18, label, 11)


def _grid_row(picture: Picture, fmt: Format, y: float, colour: str) -> None:
    values = grid(fmt)
    picture.text(LEFT - 10, y + 14, str(fmt), 12, "end")
    picture.text(LEFT - 10, y + 27, f"{len(values)} numbers", 10, "end", GREY)
    picture.line([(_across(0), y + 26), (_across(1), y + 26)], GREY, 0.6)
    for value in values:
        at = _across((value + 1) / 2)
        picture.line([(at, y + 4), (at, y + 26)], colour, 1.0 if len(values) < 200 else 0.4)


def _curve_row(picture: Picture, fmt: Format, y: float, colour: str) -> None:
    x, error = error_curve(fmt)
    low, high = -4.0, 0.0  # decades
    picture.text(
        LEFT + 10, y + CURVE - 10, str(fmt), 13, "start", colour
    )  # small values are lost, so the corner is free
    for decade in range(int(low), int(high) + 1):
        level = y + CURVE * (high - decade) / (high - low)
        picture.line([(_across(0), level), (_across(1), level)], "#e4e7eb", 0.8)
        picture.text(LEFT - 6, level + 4, f"{100 * 10.0**decade:g} %", 10, "end", GREY)
    heights = torch.log10(error.clamp(min=10.0**low, max=1.0))
    points = [
        (_across(1 + math.log2(at) / OCTAVES), y + CURVE * (high - h) / (high - low))
        for at, h in zip(x.tolist(), heights.tolist(), strict=True)
    ]
    picture.line(points, colour, 1.2)
    picture.line([(_across(0), y), (_across(0), y + CURVE)], INK, 0.8)
