"""Numbers in text: ASCII digits, a point and an exponent; no underscores, no digits of other scripts, no spaces."""

from __future__ import annotations

import math
import re

from mase.errors import ConfigError, MaseError

INTEGER = re.compile(r"[-+]?[0-9]+")
REAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"[-+]?(?:inf|infinity|nan)", re.IGNORECASE)
DIGITS = 40  # of a number; 2**128 has 39
LONGEST = 400  # characters of a real number; the exact decimal form of a float32 has up to 150


def integer(text: str, where: str, error: type[MaseError] = ConfigError) -> int:
    """Return the integer that a text is.

    Args:
        where: what errors call it.

    Raises:
        MaseError: it is another text, or longer than any number that we know.
    """
    if len(text) > DIGITS:
        raise error(f"{where}: found a number of {len(text)} digits; at most {DIGITS}")
    if INTEGER.fullmatch(text) is None:
        raise error(f"{where}: found {text!r}; an integer in the digits 0..9 is needed")
    return int(text)


def real(text: str, where: str, error: type[MaseError] = ConfigError, special: bool = False) -> float:
    """Return the real number that a text is.

    Args:
        where: what errors call it. special: NaN and infinity are numbers too.

    Raises:
        MaseError: as :func:`integer`; or no float is so large.
    """
    if len(text) > LONGEST:
        raise error(f"{where}: found a number of {len(text)} characters; at most {LONGEST}")
    if special and SPECIAL.fullmatch(text):
        return float(text)
    if REAL.fullmatch(text) is None:
        raise error(f"{where}: found {text[:40]!r}; a number is needed")
    found = float(text)
    if not math.isfinite(found):
        raise error(f"{where}: found {text[:40]!r}; the greatest number is 1.8e308")
    return found
