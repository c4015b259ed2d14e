"""The one exception to "a configuration runs no code": a function of the user's own Python file (DESIGN 13)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mase.errors import ConfigError, suggest


def resolve(reference: str, folder: Path, where: str) -> tuple[Path, str]:
    """Return file and function of ``file.py:function``; the file must lie beside or below the configuration.

    Raises:
        ConfigError: the form is another, the file is elsewhere or absent.
    """
    name, colon, function = reference.rpartition(":")
    if not colon or not name.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"{where}: {reference[:80]!r}; allowed is file.py:function")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{where}: {name!r} lies outside {folder}; allowed are files beside or below the configuration"
        )
    if not path.is_file():
        nearby = sorted(str(p.relative_to(folder)) for p in folder.glob("*.py"))
        raise ConfigError(f"{where}: {path}: no such file{suggest(name, nearby)}")
    return path, function


def load(reference: str, folder: Path, where: str) -> Callable[..., Any]:
    """Import the user's file and return the function.

    Raises:
        ConfigError: as :func:`resolve`; or the file fails, or has no such function.
    """
    path, function = resolve(reference, folder, where)
    spec = importlib.util.spec_from_file_location(f"mase_user_{digest(path)[:12]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code runs here and may raise anything
        raise ConfigError(f"{where}: {path.name} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        names = [name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise ConfigError(f"{where}: {path.name} has no function {function!r}{suggest(function, names)}")
    result: Callable[..., Any] = found
    return result


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
