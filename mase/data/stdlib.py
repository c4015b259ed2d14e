"""The source text of Python's own standard library: a corpus that is always there."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from mase.data.base import DATASETS, Data
from mase.data.text import passages, split
from mase.options import Size

# Left out: what others installed, tests, programs, and files that are written at installation.
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "__pycache__",
}
WRITTEN = "_sysconfigdata"


@DATASETS.add("stdlib")
def stdlib(window: Size = 128, tokens: str = "bytes") -> Data:
    """Read the standard library's source: token ids ``[n, window]`` and the tokens that follow; each 20th file is test.

    The text is that of the Python that runs, about 11 MB: figures differ a little between versions of Python.

    Args:
        window: tokens of a sample. tokens: as of the data set ``text``.
    """
    return passages("stdlib", split([path.read_text(encoding="utf-8") for path in sources()]), window, tokens)


def sources() -> list[Path]:
    """Return the files, in order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = (path for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts))
    return sorted(path for path in found if not path.name.startswith(WRITTEN))
