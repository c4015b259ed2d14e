"""Legal, unique SystemVerilog identifiers and file names from any text (docs/design.md, "Emission")."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

LONGEST = 40


class Names:
    """Give each text one identifier: lower case, ``[a-z0-9_]``, a prefix that no keyword has, at most 40 characters.

    Args:
        prefix: first characters of every identifier, such as ``u_``. taken: identifiers that are given already.
    """

    def __init__(self, prefix: str, taken: Iterable[str] = ()) -> None:
        self.prefix = prefix
        self._given: dict[str, str] = {}
        self._used = set(taken)

    def __getitem__(self, text: str) -> str:
        if text not in self._given:
            self._given[text] = self._fresh(identifier(text, self.prefix))
        return self._given[text]

    def _fresh(self, base: str) -> str:
        name, count = base, 1
        while name in self._used:
            count += 1
            name = f"{base[: LONGEST - 6]}_{count}"
        self._used.add(name)
        return name


def top_name(text: str, library: Collection[str]) -> str:
    """Return the name of a top module for any text: ``mase_...``, and none of the library's, with ``_axis`` neither."""
    name = identifier(text, "" if text.startswith("mase_") else "mase_")
    while {name, f"{name}_axis"} & set(library):
        name += "_top"
    return name


def identifier(text: str, prefix: str) -> str:
    """Return a legal identifier for any text; different texts may give the same one."""
    body = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", text.lower())).strip("_")
    return (prefix + (body or "x"))[:LONGEST].rstrip("_")
