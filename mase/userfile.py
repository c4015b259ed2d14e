"""The one exception to "a configuration runs no code": a function of the user's own Python file.

See docs/design.md, "Bad input".
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mase.errors import ConfigError, MaseError, suggest


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
    sys.modules[spec.name] = module  # dataclasses look their module up there
    with _told(path, where):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        names = [name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise ConfigError(f"{where}: {path.name} has no function {function!r}{suggest(function, names)}")
    result: Callable[..., Any] = found
    return result


def call(reference: str, folder: Path, where: str, options: Mapping[str, Any]) -> Any:  # Any: what the user returns
    """Call the user's function.

    Raises:
        ConfigError: as :func:`load`; an option is unknown or missing, or the function fails: says in which line.
    """
    path, name = resolve(reference, folder, where)
    function = load(reference, folder, where)
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise ConfigError(f"{where}: {path.name}:{name}: options: {error}") from None
    with _told(path, where):
        return function(**options)


@contextmanager
def _told(path: Path, where: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line that names the line of the user's file."""
    try:
        yield
    except MaseError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code runs here and may raise anything
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        place = path.name if line is None else f"{path.name}:{line}"
        raise ConfigError(f"{where}: {place} fails: {type(error).__name__}: {error}") from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
