"""Call a registered builder with the options of a configuration; what is wrong with them stands in one line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mase.doors.json_text import repr_of
from mase.errors import ConfigError, MaseError, said, suggest

T = TypeVar("T")
Size = Annotated[int, Field(gt=0, le=1 << 20)]  # of an axis, a vocabulary, an image, a window
Depth = Annotated[int, Field(gt=0, le=1 << 10)]  # layers, blocks, heads: each is a Python object
Count = Annotated[int, Field(ge=0, le=1 << 10)]  # as Depth, where there may be none
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
        given = json.dumps(_at_home(function, options, home))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: options are text, numbers, lists and mappings: {said(error)}") from None
    try:
        return _checked(function).validate_json(given, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from None
    except MaseError:
        raise
    except Exception as error:  # a tensor too large for any machine, or to count; a file that breaks its reader
        raise ConfigError(f"{where}: fails with these options: {said(error)}") from error


def _checked(function: Callable[..., T]) -> TypeAdapter[T]:
    """Return what calls a function with JSON data of the kinds that it is annotated with."""
    return TypeAdapter(cast("type[T]", function), config=ConfigDict(allow_inf_nan=False, strict=True))


def _at_home(function: Callable[..., Any], options: Mapping[str, Any], home: Path | None) -> Mapping[str, Any]:
    """Return options whose ``path`` is relative to a folder."""
    path = options.get("path")
    if home is None or not isinstance(path, str):
        return options
    sure = get_type_hints(function).get("path") is Path
    return {**options, "path": str(home / path)} if sure or (home / path).exists() else options


def _first(error: ValidationError) -> str:
    """Return the first complaint as ``option: found; allowed``."""
    item = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in item["loc"])[:120]
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"option {name!r} is missing"
    return f"option {name!r}: found {repr_of(item['input'])}; {item['msg'][:1].lower()}{item['msg'][1:]}"
