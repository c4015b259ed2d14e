"""Checks of the fields of methods: each refusal is one line with the method, the field, what was found and allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mase.doors.json_text import repr_of
from mase.errors import ConfigError, suggest

SEEDS = 1 << 32


def whole(where: str, value: object, low: int, high: int | None = None) -> None:
    """Raise ConfigError unless ``value`` is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"{where}: found {repr_of(value)}; allowed is a whole number {_range(low, high)}")


def number(where: str, value: object, low: float, high: float | None = None, above: bool = False) -> None:
    """Raise ConfigError unless ``value`` is a finite number in the range.

    Args:
        above: ``low`` is not allowed itself.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or value < low or (high is not None and value > high) or (above and value == low):  # type: ignore[operator]  # it is a number
        span = _range(low, high) if not above else f"above {low}" + ("" if high is None else f", at most {high}")
        raise ConfigError(f"{where}: found {repr_of(value)}; allowed is a number {span}")


def seeded(where: str, value: object) -> None:
    """Raise ConfigError unless ``value`` is a seed, as that of a configuration is."""
    whole(where, value, 0, SEEDS - 1)


def choice(where: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{where}: found {repr_of(value)}{suggest(str(value)[:80], allowed)}")


def _range(low: float, high: float | None) -> str:
    return f"from {low}" if high is None else f"from {low} to {high}"
