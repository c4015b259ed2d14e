"""Call a registered builder with the options of a configuration; what is wrong with them stands in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field, ValidationError, validate_call

from mase.errors import ConfigError, suggest

T = TypeVar("T")
Size = Annotated[int, Field(gt=0, le=1 << 20)]  # of an axis, a vocabulary, an image, a window
Depth = Annotated[int, Field(gt=0, le=1 << 10)]  # layers, blocks, heads: each is a Python object
Factor = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


def call(function: Callable[..., T], options: Mapping[str, Any], where: str, home: Path | None = None) -> T:
    """Check options against a function's signature, its annotations being the rules, and call it.

    Args:
        where: what is built, such as ``model llama``. home: folder that an option ``path`` is relative to; left out:
            the current one. A ``path`` that is text may be a name on a hub, and is left alone unless it is there.

    Raises:
        ConfigError: an option is unknown, missing, or of a kind or range that its annotation refuses; or there is no
            memory for what it asks.
    """
    known = inspect.signature(function).parameters
    for name in options:
        if name not in known:
            raise ConfigError(f"{where}: unknown option {str(name)[:60]!r}{suggest(str(name), known)}")
    try:
        return validate_call(function)(**_at_home(function, options, home))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from None
    except (MemoryError, RuntimeError, TypeError) as error:  # a tensor too large for any machine, or to count
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{where}: fails with these options: {said[:200]}") from error


def _at_home(function: Callable[..., Any], options: Mapping[str, Any], home: Path | None) -> Mapping[str, Any]:
    """Return options whose ``path`` is relative to a folder."""
    path = options.get("path")
    if home is None or not isinstance(path, str):
        return options
    sure = get_type_hints(function).get("path") is Path
    return {**options, "path": str(home / path)} if sure or (home / path).exists() else options


def _first(error: ValidationError) -> str:
    """Return the first complaint as ``option: found; allowed``."""
    item = error.errors()[0]
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"option {name!r} is missing"
    return f"option {name!r}: found {repr(item['input'])[:60]}; {item['msg'][0].lower()}{item['msg'][1:]}"
