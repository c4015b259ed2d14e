"""Hide installed packages that cannot be imported from libraries that would take them for usable."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def hide_broken(*names: str) -> tuple[str, ...]:
    """Make packages that are installed but fail at import look as if they were not installed, and return their names.

    transformers imports torchvision wherever it finds it; one that was built for another torch fails there, and with it
    every model, of text too.
    """
    return tuple(name for name in names if _is_broken(name))


def _is_broken(name: str) -> bool:
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001 - a broken package may raise anything
        for part in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[part]
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark of a module that cannot be imported
        return True
    return False
