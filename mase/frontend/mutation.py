"""Calls that change their first argument, and what computes the same without changing it."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError

KEYWORDS = (operator.and_, operator.or_, operator.not_, operator.is_)  # their names end so because Python has the words


def in_place(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call changes its first argument."""
    if "out" in kwargs:
        raise TraceError("unsupported mutation: out= writes into a tensor; use the result instead")
    if target in KEYWORDS:
        return False
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    place = _inplace_argument(target) if callable(target) else None
    given = kwargs.get("inplace", place is not None and len(args) > place and args[place])
    return bool(given) or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")


@lru_cache(maxsize=256)
def _inplace_argument(function: Callable[..., Any]) -> int | None:
    """Return the place of a function's argument ``inplace``."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # built-in functions have no signature
        return None
    return names.index("inplace") if "inplace" in names else None


def functional(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return the call that computes the same without changing its argument."""
    place = _inplace_argument(target) if callable(target) else None
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name.endswith("_"):
        rooms = (Tensor,) if isinstance(target, str) else (torch, nn.functional)
        found = [getattr(room, name[:-1]) for room in rooms if hasattr(room, name[:-1])]
        if not found:
            raise TraceError(f"unsupported mutation: {name}; build a new tensor instead")
        target = name[:-1] if isinstance(target, str) else found[0]
    kept = tuple(False if i == place else arg for i, arg in enumerate(args))
    return target, kept, {key: False if key == "inplace" else value for key, value in kwargs.items()}
