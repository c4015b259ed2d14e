"""What a traced call is given, and what it is in the normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from mase.graph import Json, TensorType

SPEC = "mase_spec"  # in a traced node's meta: what it gave on the two samples (mase/frontend/values.py)


class Opaque(Exception):
    """A call does not have a typed kind; the text says why."""


@dataclass(frozen=True)
class Lifted:
    """Say what a call is in the normal form.

    Args:
        kind: of the node. inputs: the nodes that it reads. attrs: its constants.
        operands: role -> node of the parameter that plays it.
    """

    kind: str
    inputs: Sequence[fx.Node]
    attrs: Mapping[str, Json] = field(default_factory=dict)
    operands: Mapping[str, fx.Node] = field(default_factory=dict)


class Call:
    """Read the arguments of a traced call by place or by name.

    Args:
        part: of a call with several results, which of them is meant, by place or by name.
    """

    def __init__(self, node: fx.Node, name: str, part: int | str | None = None) -> None:
        self.node, self.name, self.part = node, name, part

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument."""
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)

    def tensor(self, place: int, name: str) -> fx.Node:
        """Return an argument that is a traced tensor."""
        found = self.arg(place, name)
        if not isinstance(found, fx.Node) or not isinstance(kind_of(found), TensorType):
            raise Opaque(f"{name} is not a traced tensor")
        return found

    def plain(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument that is a constant all through."""
        found = self.arg(place, name, default)
        if has_node(found):
            raise Opaque(f"{name} depends on a size that is free")
        return found

    def axis(self, place: int, name: str, of: fx.Node, default: Any = None) -> int:
        """Return an axis, counted from the first."""
        found = self.plain(place, name, default)
        if not isinstance(found, int):
            raise Opaque(f"{name} is {found!r}, not one axis")
        return found % len(kind_of(of).shape)

    def parameters(self, **places: tuple[int, str]) -> dict[str, fx.Node]:
        """Return the parameters that are given, by role."""
        found = {role: self.arg(place, name) for role, (place, name) in places.items()}
        for role, node in found.items():
            if node is not None and (not isinstance(node, fx.Node) or node.op != "get_attr"):
                raise Opaque(f"{role} is computed, not a parameter")
        return {role: node for role, node in found.items() if node is not None}


Rule = Callable[[Call], Lifted]


def kind_of(node: fx.Node, sample: int = 0) -> Any:
    """Return the type of a traced tensor, or what a node gave that is none."""
    return node.meta[SPEC][sample]


def shapes_of(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a traced tensor on both samples."""
    return kind_of(node, 0).shape, kind_of(node, 1).shape


def has_node(value: Any) -> bool:
    """Tell whether nested arguments hold a traced value."""
    if isinstance(value, tuple | list):
        return any(has_node(item) for item in value)
    return isinstance(value, fx.Node)


def listed(value: Any, count: int) -> list[int]:
    """Return numbers for so many axes; one number is that of each."""
    return [value] * count if isinstance(value, int) else list(value)
