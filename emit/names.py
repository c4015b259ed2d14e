"""Legal, unique SystemVerilog identifiers and file names from any text (docs/design.md, "Emission")."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

LONGEST = 40
PORT = 24  # characters of the base name of a stream: its signals stand twice in some lines
TAKEN = ("clk", "rst", "flush", "error")  # first words of the other ports of a top


class Names:
    """Give each text one identifier: lower case, ``[a-z0-9_]``, a prefix that no keyword has, at most 40 characters.

    Args:
        prefix: first characters of every identifier, such as ``u_``. taken: identifiers that are given already.
        longest: most characters, where that is less.
    """

    def __init__(self, prefix: str, taken: Iterable[str] = (), longest: int = LONGEST) -> None:
        self.prefix, self.longest = prefix, longest
        self._given: dict[str, str] = {}
        self._used = set(taken)

    def __getitem__(self, text: str) -> str:
        if text not in self._given:
            self._given[text] = self._fresh(identifier(text, self.prefix))
        return self._given[text]

    def of(self, text: str, prefix: str) -> str:
        """Return an identifier of its own for a text that may come again; one without a first letter gets a prefix."""
        name = identifier(text, "")
        return self._fresh(name if name[0].isalpha() else identifier(text, prefix))

    def _fresh(self, base: str) -> str:
        name, count = base[: self.longest].rstrip("_"), 1
        while name in self._used:
            count += 1
            name = f"{base[: self.longest - 6]}_{count}"
        self._used.add(name)
        return name


def port_names(inputs: Sequence[str], outputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the base names of the streams of a design, from the model's names of its inputs and outputs.

    One of each are ``in`` and ``out``; of more, each has its own name, made legal and unique.
    """
    if len(inputs) == len(outputs) == 1:
        return ["in"], ["out"]
    names = Names("", TAKEN, PORT)
    ins, outs = ([names.of(text, prefix) for text in texts] for texts, prefix in ((inputs, "in_"), (outputs, "out_")))
    return ins, outs


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
