"""JSON of known kind: finite numbers, Unicode text, each key once, no deeper and no longer than we write it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from mase.doors import file, number
from mase.errors import GraphError, MaseError

LARGEST = 1 << 28  # bytes of a file; the graph of a model with 100,000 nodes has 100 MB
DEEPEST = 200  # brackets within brackets
DEEP = f"more than {DEEPEST} brackets within each other"

HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs: JSON can spell them, and nothing can hold them

T = TypeVar("T")


def read(path: str | Path, error: type[MaseError] = GraphError, hint: str = "", special: bool = False) -> Any:
    """Return the JSON data that a file holds; see :func:`parse`.

    Args:
        hint: what to say of a file that is not there.
    """
    return parse(file.text(path, LARGEST, error, hint), str(path), error, special)


def parse(text: str | bytes, where: str, error: type[MaseError] = GraphError, special: bool = False) -> Any:
    """Return the data of a JSON text.

    Args:
        where: what errors call it. error: what is raised. special: NaN and infinity are numbers too, as others write.

    Raises:
        MaseError: it is not JSON; or holds a number that is not finite or has hundreds of digits, a key twice, text
            that is not Unicode, or too many brackets within each other.
    """

    def infinite(word: str) -> NoReturn:
        raise error(f"{where}: corrupt: found {word}; numbers are finite")

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise error(f"{where}: corrupt: key {twice[:60]!r} is given twice")
        return found

    try:
        found = json.loads(
            text,
            parse_int=lambda digits: number.integer(digits, f"{where}: corrupt", error),
            parse_float=lambda digits: number.real(digits, f"{where}: corrupt", error),
            parse_constant=float if special else infinite,
            object_pairs_hook=once,
        )
        strange = _strange(found)
    except ValueError as fault:  # not JSON, or not UTF-8
        raise error(f"{where}: corrupt: this is not JSON: {fault}") from None
    except RecursionError:
        strange = DEEP
    if strange:
        raise error(f"{where}: corrupt: {strange}")
    return found


def check_schema(data: Any, reads: Sequence[int], where: str, error: type[MaseError] = GraphError) -> None:
    """Refuse what is not a JSON object of a schema that is read, before its fields are looked at: others differ.

    Raises:
        MaseError: it is another one.
    """
    if not isinstance(data, dict):
        raise error(f"{where}: corrupt: found a {type(data).__name__} in place of an object with its fields")
    found = data.get("schema")
    if type(found) is not int or found not in reads:
        known = str(reads[0]) if len(reads) == 1 else f"{reads[0]} to {reads[-1]}"
        raise error(f"{where}: schema {repr_of(found)}; this version reads schema {known}")


def checked(
    kind: type[T] | TypeAdapter[T], data: Any, where: str, error: type[MaseError] = GraphError, strict: bool = True
) -> T:
    """Return data as a typed object, once every field is of its type.

    Args:
        kind: a class whose fields have types, or an adapter for it. where: what errors call it. error: what is raised.
        strict: text is not a number.

    Raises:
        MaseError: a field is missing, unknown or of another type; says which, and what is allowed.
    """
    try:
        adapter: TypeAdapter[T] = kind if isinstance(kind, TypeAdapter) else _adapter(kind)  # type: ignore[arg-type]
        if not strict:
            return adapter.validate_python(data)
        return adapter.validate_json(json.dumps(data), strict=True)  # a list of JSON may be a tuple
    except ValidationError as fault:
        raise error(f"{where}: {first(fault)}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # a type, which mypy does not take for hashable
    return TypeAdapter(kind)


def first(fault: ValidationError) -> str:
    """Return the first complaint as ``place: found; allowed``."""
    item = fault.errors(include_url=False)[0]
    place = ".".join(map(str, item["loc"]))[:120] or "the whole"
    if item["type"].startswith("missing"):
        return f"{place}: is missing"
    found, said = " ".join(repr_of(item["input"]).split()), str(item["msg"])
    return f"{place}: found {found}; {said[:1].lower()}{said[1:]}"


def repr_of(value: object, most: int = 60) -> str:
    """Return how a value of any kind looks in an error; the text of a large one is never made whole."""
    if isinstance(value, str):
        return repr(value[:most])
    if isinstance(value, int) and abs(value) >= 10**number.DIGITS:
        return f"a number of more than {number.DIGITS} digits"
    if isinstance(value, dict | list | tuple) and len(value) > most:
        return f"{type(value).__name__} of {len(value)}"
    try:
        return repr(value)[:most]
    except Exception:  # noqa: BLE001  # objects of users: their text is their own business
        return type(value).__name__


def _strange(found: Any) -> str:
    """Return what is wrong with JSON data that can be read and yet is not ours, or nothing."""
    layer, depth = [found], 0
    while layer:
        depth += 1
        if depth > DEEPEST:
            return DEEP
        below: list[Any] = []
        for item in layer:
            if isinstance(item, str) and not item.isascii() and HALVES.search(item):
                return f"found {item[:40]!r}, which is not text"
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        layer = below
    return ""
