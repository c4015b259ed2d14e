"""Name -> object tables that fill themselves by importing a folder: one file, one entry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mase.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named objects, filled on first use from every module of one package.

    Args:
        what: what an entry is called in errors, such as ``format``.
        package: dotted name of the folder whose modules register entries.
    """

    def __init__(self, what: str, package: str) -> None:
        self.what, self.package = what, package
        self._items: dict[str, T] = {}
        self._filled = False

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its object under ``name``; a name is given once."""

        def register(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._items[name] = item
            return item

        return register

    def __getitem__(self, name: str) -> T:
        self._fill()
        if name not in self._items:
            raise UnknownName(self.what, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(sorted(self._items))

    def items(self) -> list[tuple[str, T]]:
        """Return ``(name, object)`` pairs in order of name."""
        self._fill()
        return sorted(self._items.items(), key=lambda pair: pair[0])

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
