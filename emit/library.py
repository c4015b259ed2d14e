"""Library modules under names of the design's own, so that any number of designs share a build."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

# Text of the formal proofs, which stays with the library: its include files are not emitted.
FORMAL = re.compile(r"`ifdef FORMAL\n.*?`endif\n\n?", re.DOTALL)


def private_name(top: str, module: str) -> str:
    """Return the name of a library module in the design ``top``; no identifier of a user has two underscores."""
    return f"{top}__{module.removeprefix('mase_')}"


def private_files(top: str, names: Iterable[str], modules: Collection[str]) -> list[str]:
    """Return the places of sources, those of library modules under their private names."""
    return [_file(top, name, modules) for name in names]


def private(top: str, files: Mapping[str, str | bytes], modules: Collection[str]) -> dict[str, str | bytes]:
    """Return the files with the library modules renamed, in their own text and in that of those that use them."""
    used = sorted((module for module in modules if f"rtl/{module}.sv" in files), key=len, reverse=True)
    words = re.compile(rf"\b(?:{'|'.join(used)})\b")
    out: dict[str, str | bytes] = {}
    for name, text in files.items():
        if name.startswith("rtl/") and isinstance(text, str):
            text = words.sub(lambda match: private_name(top, match[0]), FORMAL.sub("", text))
        out[_file(top, name, used)] = text
    return out


def _file(top: str, name: str, modules: Collection[str]) -> str:
    module = name.removeprefix("rtl/").removesuffix(".sv")
    return f"rtl/{private_name(top, module)}.sv" if name == f"rtl/{module}.sv" and module in modules else name
