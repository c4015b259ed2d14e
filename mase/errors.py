"""Errors that a user can cause. Each text says where, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CREDENTIALS = re.compile(r"(\w://[^\s:/@]*:)(?!\$\{)[^\s@]*@")  # user and password of an address
LONGEST = 1000  # characters of an error


class MaseError(Exception):
    """Base of every error that bad input can cause; the command line turns it into one line and exit code 2."""

    def __init__(self, text: str = "") -> None:
        super().__init__(line(CREDENTIALS.sub(r"\1***@", text)))


class ConfigError(MaseError):
    """A configuration, a glob or an argument is wrong."""


class UnknownName(ConfigError):
    """A name that is not among those allowed.

    Args:
        where: what the name was looked up as, such as ``model`` or ``formats.default.weight``.
        name: what was found.
        allowed: the names that exist.
    """

    def __init__(self, where: str, name: object, allowed: Iterable[str]) -> None:
        self.where, self.name, self.allowed = where, name, sorted(allowed)
        super().__init__(f"{where}: unknown name {str(name)[:80]!r}{suggest(str(name), self.allowed)}")


class FormatError(MaseError):
    """A number format is impossible, or the data cannot be encoded in it."""


class UnsupportedOp(MaseError):
    """An operation has no reference, no hardware or no legal mapping."""


class GraphError(MaseError):
    """A graph, a saved graph or a run directory is inconsistent."""


class ToolError(MaseError):
    """An external tool is missing, too old or failed."""


class InternalError(MaseError):
    """A rule is broken that no input may break: a bug of this project, found before it became a wrong number."""

    def __init__(self, text: str) -> None:
        super().__init__(f"internal error, please report it with the model and the configuration: {text}")


class RtlFault(ToolError):
    """The simulated hardware breaks a rule of its streams, or stops; the command line's exit code is 1, not 2."""


def line(text: str, most: int = LONGEST) -> str:
    """Return a text as one line of bounded length, in which each character can be seen: no codes for a terminal."""
    start = " ".join(text[: 4 * most].split())
    seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)
    return seen if len(seen) <= most else f"{seen[: most - 4]} ..."


def said(error: BaseException) -> str:
    """Return what an error of others says, or what it is called where it says nothing."""
    return line(str(error), 200) or type(error).__name__


def suggest(name: str, allowed: Iterable[str], most: int = 12) -> str:
    """Return ``; did you mean x?`` when one is near, else ``; allowed: a, b, c``."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return f"; allowed: {shown or 'none'}"
