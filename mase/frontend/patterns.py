"""Groups of typed nodes that are one kind together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from mase.frontend.calls import SPEC, kind_of
from mase.graph import META, Json, Record, typed


@dataclass(frozen=True)
class Group:
    """Say what a group of nodes is together.

    Args:
        kind: of the one node. inputs: that it reads. attrs: its constants. ports: names of the inputs, where needed.
        operands: role -> the role under which the group's last node holds the parameter.
    """

    kind: str
    inputs: tuple[fx.Node, ...]
    attrs: Mapping[str, Json]
    ports: tuple[str, ...] = ()
    operands: Mapping[str, str] = field(default_factory=dict)


def join(graph: fx.Graph) -> None:
    """Replace every known group by one node of its kind."""
    for node in list(graph.nodes):
        found = _rotary(node) or _rms_norm(node)
        if found is not None:
            _replace(graph, node, found)


def _replace(graph: fx.Graph, last: fx.Node, group: Group) -> None:
    """Put one node in the place of the last one of a group; the others stay for whoever reads them."""
    old: Record = last.meta[META]
    keys = {role: old.key(name) for role, name in group.operands.items()}
    path = next((key.rpartition(".")[0] for key in keys.values() if "." in key), old.path)
    operands = {role: old.operands[name] for role, name in group.operands.items()}
    table = {role: key for role, key in keys.items() if key != f"{path}.{role}"}
    with graph.inserting_before(last):
        new = graph.call_function(typed, group.inputs)
    record = Record(group.kind, path, old.output, group.attrs, operands, old.source, table, ports=group.ports)
    new.meta = {**last.meta, META: record}
    last.replace_all_uses_with(new)
    graph.erase_node(last)


def _rotary(node: fx.Node) -> Group | None:
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
            return Group("rotary", (x, cos, sin), {"head_size": kind_of(x).shape[-1]}, ("x", "cos", "sin"))
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


def _rms_norm(node: fx.Node) -> Group | None:
    """Match ``weight * (x * rsqrt(mean(x**2) + eps))`` on the last axis, in float32 between casts where x is narrow."""
    if not _is(node, "mul", 1) or "other" not in node.meta[META].operands:
        return None
    weight, (y,) = node.meta[META].operands["other"], _tensors(node)
    narrow = y if _is(y, "layout", 1, function="cast") else None
    y = _tensors(narrow)[0] if narrow is not None else y
    if not _is(y, "mul", 2):
        return None
    for x, root in (_tensors(y), _tensors(y)[::-1]):
        eps = _root_of_mean_square(root, x)
        if eps is None or weight.shape != kind_of(x).shape[-1:]:
            continue
        attrs = {"function": "rms", "eps": eps, "shape": list(weight.shape), "form": "llama"}
        if narrow is None:
            return Group("norm", (x,), attrs, operands={"weight": "other"})
        if _is(x, "layout", 1, function="cast") and kind_of(_tensors(x)[0]).dtype == kind_of(narrow).dtype:
            wide = kind_of(x).dtype == "float32" and kind_of(narrow).dtype in ("bfloat16", "float16")
            return Group("norm", _tensors(x), attrs, operands={"weight": "other"}) if wide else None
    return None


def _root_of_mean_square(node: Any, x: fx.Node) -> float | None:
    """Return eps where a node is ``rsqrt(mean(x**2, last axis) + eps)``."""
    if not _is(node, "activation", 1, function="rsqrt"):
        return None
    shifted = _tensors(node)[0]
    record = shifted.meta.get(META)
    if record is None or record.kind != "add" or set(record.attrs) != {"value"}:
        return None
    mean = _tensors(shifted)[0]
    if not _is(mean, "pool", 1, function="mean", keepdim=True):
        return None
    squared, rank = _tensors(mean)[0], len(kind_of(x).shape)
    powers = (
        _is(squared, "activation", 1, function="power", exponent=2),
        _is(squared, "activation", 1, function="square"),
    )
    times = _is(squared, "mul", 2) and _tensors(squared) == (x, x)
    same = times or (any(powers) and _tensors(squared)[0] is x)
    last = [axis % rank for axis in mean.meta[META].attrs["axes"]] == [rank - 1]
    return float(record.attrs["value"]) if same and last else None


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
    if kind in ("add", "mul") and record.attrs.keys() - {"reverse", "parameter"}:  # a difference, a quotient, a number
        return False
    return all(record.attrs.get(key) == value for key, value in attrs.items())
