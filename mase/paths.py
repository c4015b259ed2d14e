"""Where the files that are not Python lie: hardware, configurations, cache. Nothing else computes such a path."""

from __future__ import annotations

import os
from pathlib import Path

from mase.errors import ToolError


def data_dir() -> Path:
    """Return the folder that holds ``hw`` and ``configs``.

    Returns:
        ``mase/_data`` of an installed wheel, else the root of the checkout that this file lies in.

    Raises:
        ToolError: neither has them, so the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data", package.parent):
        if (folder / "hw").is_dir() and (folder / "configs").is_dir():
            return folder
    raise ToolError(f"{package}: no hw and configs folders in _data nor beside the package; install mase-dse again")


def hw_dir() -> Path:
    """Return the folder of the SystemVerilog sources: ``hw/<block>/mase_<block>.sv``."""
    return data_dir() / "hw"


def configs_dir() -> Path:
    """Return the folder of the configurations that come with the program."""
    return data_dir() / "configs"


def cache_dir() -> Path:
    """Return the folder of what can be made again, such as compiled simulations; it need not exist yet.

    Returns:
        An absolute path: ``$MASE_CACHE``, else ``$XDG_CACHE_HOME/mase``, else ``~/.cache/mase``. An empty variable
        counts as unset, and so does a relative ``XDG_CACHE_HOME``.

    Source: XDG Base Directory Specification 0.8, for ``XDG_CACHE_HOME``.
    """
    if own := os.environ.get("MASE_CACHE"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "mase"
