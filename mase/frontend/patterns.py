"""Groups of typed nodes that are one kind together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from mase.frontend.calls import SPEC, kind_of
from mase.graph import META, Json, Record, typed


def join(graph: fx.Graph) -> None:
    """Replace every known group by one node of its kind."""
    for node in list(graph.nodes):
        found = _rotary(node)
        if found is not None:
            _replace(graph, node, "rotary", *found)


def _replace(
    graph: fx.Graph,
    last: fx.Node,
    kind: str,
    inputs: tuple[fx.Node, ...],
    attrs: Mapping[str, Json],
    ports: tuple[str, ...],
) -> None:
    """Put one node in the place of the last one of a group; the others stay for whoever reads them."""
    old: Record = last.meta[META]
    with graph.inserting_before(last):
        new = graph.call_function(typed, inputs)
    new.meta = {**last.meta, META: Record(kind, old.path, old.output, attrs, source=old.source, ports=ports)}
    last.replace_all_uses_with(new)
    graph.erase_node(last)


def _rotary(node: fx.Node) -> tuple[tuple[fx.Node, ...], dict[str, Json], tuple[str, ...]] | None:
    """Match ``x * cos + cat(-upper half of x, lower half of x) * sin``."""
    if not _is(node, "add", 2):
        return None
    first, second = _tensors(node)
    for straight, turned in ((first, second), (second, first)):
        if not _is(straight, "mul", 2) or not _is(turned, "mul", 2):
            continue
        x, cos = _tensors(straight)
        swapped, sin = _tensors(turned)
        if _turns(swapped, x) and kind_of(cos) == kind_of(sin) and kind_of(cos).shape[-1] == kind_of(x).shape[-1]:
            return (x, cos, sin), {"head_size": kind_of(x).shape[-1]}, ("x", "cos", "sin")
    return None


def _turns(node: Any, x: fx.Node) -> bool:
    """Tell whether a node is the upper half of the last axis of x, negated, and then the lower half."""
    rank, size = len(kind_of(x).shape), kind_of(x).shape[-1]
    if not _is(node, "layout", 2, function="concat") or node.meta[META].attrs["axis"] not in (-1, rank - 1):
        return False
    minus, low = _tensors(node)
    return (
        _is(minus, "activation", 1, function="neg")
        and _is_slice(_tensors(minus)[0], x, size // 2, size)
        and _is_slice(low, x, 0, size // 2)
    )


def _is_slice(node: Any, x: fx.Node, start: int, end: int) -> bool:
    """Tell whether a node is ``x[..., start:end]``, however it is written."""
    if not _is(node, "layout", 1) or node.args[0] is not x:
        return False
    attrs, rank, size = node.meta[META].attrs, len(kind_of(x).shape), kind_of(x).shape[-1]
    cut: Any = None
    if attrs.get("function") == "slice" and attrs["axis"] in (-1, rank - 1):
        cut = slice(attrs["start"], attrs["end"], attrs["step"])
    elif attrs.get("function") == "index" and len(attrs["index"]) == 2 and attrs["index"][0] == "...":
        cut = slice(*attrs["index"][1]) if isinstance(attrs["index"][1], list) else None
    return cut is not None and cut.indices(size) == (start, end, 1)


def _tensors(node: fx.Node) -> tuple[fx.Node, ...]:
    """Return the inputs of a typed node."""
    return tuple(arg for arg in node.args if isinstance(arg, fx.Node))


def _is(node: Any, kind: str, inputs: int, **attrs: Json) -> bool:
    """Tell whether a node is typed, of a kind with so many inputs, and has these attributes."""
    record = node.meta.get(META) if isinstance(node, fx.Node) else None
    if record is None or record.kind != kind or len(node.args) != inputs or SPEC not in node.meta:
        return False
    if kind in ("add", "mul") and record.attrs:  # a difference or a quotient
        return False
    return all(record.attrs.get(key) == value for key, value in attrs.items())
