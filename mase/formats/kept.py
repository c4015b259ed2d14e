"""What is made of tensors that do not change, made once: for whoever makes it again and again within a ``Kept``."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor

from mase.formats.base import QuantParams

T = TypeVar("T")
MOST = 1 << 28  # bytes that things take with what they were made of; the least recently used one goes first
ELEMENT = 24  # bytes that an element of an argument takes: mantissas, integers and one more tensor of 8 bytes each
SMALL = 1 << 12  # bytes that any thing takes


class Kept:
    """Keep results by function and arguments; tensors and parameters of formats are equal where they are the same.

    A tensor must not change while this lives.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Any, tuple[Any, ...], int]] = OrderedDict()  # with what ids stand for
        self._bytes = 0

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let :func:`kept` keep things here meanwhile."""
        token = _STORE.set(self)
        try:
            yield
        finally:
            _STORE.reset(token)

    def get(self, make: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Return what ``make`` gives for its arguments, made once."""
        key = (make, *(id(arg) if isinstance(arg, (Tensor, QuantParams)) else arg for arg in args))
        if key in self._found:
            self._found.move_to_end(key)
            found: T = self._found[key][0]
            return found
        found = make(*args)
        size = SMALL + sum(ELEMENT * arg.numel() for arg in args if isinstance(arg, Tensor))
        self._found[key] = found, args, size
        self._bytes += size
        while self._bytes > MOST and len(self._found) > 1:
            self._bytes -= self._found.popitem(last=False)[1][2]
        return found


_STORE: ContextVar[Kept | None] = ContextVar("store", default=None)


def kept(make: Callable[..., T], *args: Any) -> T:  # any arguments
    """Return ``make(*args)``, made once within :meth:`Kept.used`. The arguments say all that the result depends on."""
    store = _STORE.get()
    return make(*args) if store is None else store.get(make, args)
