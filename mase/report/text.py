"""How the report writes numbers and names: units, signs, thousands, and nothing invisible in a name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

LOWER_IS_BETTER = frozenset({"perplexity", "loss", "error"})
UNITS = {"snr": "dB"}  # of scores that are logarithms
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"
# Control characters, lone surrogates and non-characters are illegal in XML; marks without width, or that turn the
# direction of text around, can make one name look like another.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def clean(value: str) -> str:
    """Return the text with every character that cannot be seen written as its code in hexadecimal."""
    return INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", value)


def short(value: str, most: int = 40) -> str:
    """Return the text with its middle left out where it has more than ``most`` characters."""
    value = " ".join(clean(value).split())
    if len(value) <= most:
        return value
    tail = (most - 1) * 2 // 3  # the end of a module path says more than its beginning
    return value[: most - 1 - tail] + ELLIPSIS + value[-tail:]


def ending(value: str, most: int) -> str:
    """Return the text, or as many of its last dotted parts as ``most`` characters hold."""
    value = short(value, 300)
    if len(value) <= most:
        return value
    parts = value.split(".")
    while len(parts) > 1 and len(".".join(parts)) >= most:
        del parts[0]
    return ELLIPSIS + ".".join(parts)[1 - most :]


def number(value: float) -> str:
    """Return a figure with thousands: whole numbers whole, others with four significant digits."""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == round(value) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2e}"
    return text.replace("-", MINUS)


def whole(value: float) -> str:
    """Return an estimated count, rounded."""
    return number(round(value))


def compact(value: float, above: float = 1e5) -> str:
    """Return a figure for a narrow place, with a unit from ``above`` on: 125k, 3M."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, above):
            return f"{value / size:.4g}{unit}".replace("-", MINUS)
    return number(value)


def is_fraction(metric: str) -> bool:
    """Tell whether a metric is a fraction, 0..1, that is shown in percent."""
    return metric in ("accuracy", "error")


def score(value: float, metric: str) -> str:
    """Return a score with its unit: percent for a fraction, dB for a ratio."""
    if metric in UNITS:
        return f"{value:.2f}{NO_BREAK}{UNITS[metric]}".replace("-", MINUS)
    return f"{100 * value:.2f} %" if is_fraction(metric) else number(value)


def score_change(value: float, base: float, metric: str) -> str:
    """Return ``value - base`` with its sign: points for a fraction."""
    change = value - base
    text = f"{100 * change:+.2f} points" if is_fraction(metric) else f"{change:+.4g}"
    if metric in UNITS:
        text = f"{change:+.2f}{NO_BREAK}{UNITS[metric]}"
    return text.replace("-", MINUS)


def limit(base: float, tolerance: float, metric: str) -> float:
    """Return the worst score that lies within ``tolerance`` of ``base``."""
    return base + tolerance if metric in LOWER_IS_BETTER else base - tolerance


def relative(predicted: float, measured: float) -> str:
    """Return the error of a prediction in percent of what was measured."""
    if predicted == measured:
        return "exact"
    if measured == 0:
        return "measured 0"
    return f"{100 * (predicted - measured) / measured:+.1f} %".replace("-", MINUS)


def seconds(value: float) -> str:
    """Return a time: 0.21 s, 8.4 s, 2 min 05 s, 3 h 12 min."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shape(sizes: Sequence[int]) -> str:
    """Return the sizes of a tensor with times signs between them."""
    return TIMES.join(map(str, sizes))


def share(value: float, whole: float) -> str:
    """Return ``value`` in percent of ``whole``, for CSS; 0 where there is nothing to share."""
    return f"{100 * value / whole:.2f}%" if whole > 0 else "0%"
