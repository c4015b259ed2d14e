"""Edges that are rounded: a node between a tensor and some of its readers (docs/ptq/activations.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import GraphError
from mase.formats import QuantParams, parse
from mase.graph import META, Graph, Record, TensorType, typed

FIELDS = "scale", "zero_point", "base", "offset", "threshold"  # tensors of parameters
WHOLE = "zero_point", "base"  # of these, integers
Json = Any  # JSON-able


@dataclass(frozen=True, eq=False)
class Edge:
    """One tensor as some nodes read it.

    Args:
        source: name of the node that gives it. readers: name of a node, and which of its inputs it is.
        format: text. axis: along which blocks, groups, channels or tokens lie. dynamic: scales follow from the data.
        params: of the format, from calibration.
    """

    source: str
    readers: tuple[tuple[str, int], ...]
    format: str
    axis: int = -1
    dynamic: bool = False
    params: QuantParams = field(default_factory=QuantParams)

    @property
    def name(self) -> str:
        """Name of the node that rounds."""
        return rounded_name(*self.readers[0])

    def told(self) -> Json:
        """Return the edge as JSON data; float64 numbers are written so that they are read again exactly."""
        tensors = {name: getattr(self.params, name) for name in FIELDS}
        params = {name: x.tolist() for name, x in tensors.items() if x is not None}
        readers = [list(reader) for reader in self.readers]
        return {
            "source": self.source,
            "readers": readers,
            "format": self.format,
            "axis": self.axis,
            "dynamic": self.dynamic,
            "params": params,
        }


def rounded_name(reader: str, index: int = 0) -> str:
    """Return the name of the node that rounds an input of another, which is the first to read it."""
    return f"{reader}_rounded{index or ''}"


@dataclass(frozen=True)
class _Edge:
    """An edge as a file has it."""

    source: str
    readers: tuple[tuple[str, int], ...]
    format: str
    axis: int
    dynamic: bool
    params: dict[str, Any]


def read(data: Json, where: str) -> list[Edge]:
    """Return the edges that :meth:`Edge.told` wrote.

    Raises:
        GraphError: a field is missing or of another type.
    """
    out = []
    for one in json_text.checked(tuple[_Edge, ...], data, where):
        try:
            tensors = {name: torch.tensor(x, dtype=_type(name)) for name, x in one.params.items() if name in FIELDS}
        except (TypeError, ValueError, RuntimeError):
            raise GraphError(f"{where}: parameters of the edge {one.source[:60]!r} are not numbers") from None
        params = replace(QuantParams(axis=one.axis), **tensors)  # type: ignore[arg-type]  # all are tensors
        if not one.readers:
            raise GraphError(f"{where}: the edge {one.source[:60]!r} has no readers")
        out.append(Edge(one.source, one.readers, one.format, one.axis, one.dynamic, params))
    return out


def _type(name: str) -> torch.dtype:
    return torch.int64 if name in WHOLE else torch.float64


def inserted(graph: Graph, edges: Sequence[Edge]) -> Graph:
    """Return the graph with a node for each edge, which rounds what its readers read; itself where there is none.

    A format with parameters from calibration, or with none, is that of the node's result (kind ``requantize``); scales
    that follow from the data are a node of kind ``dynamic``.

    Raises:
        GraphError: a node is not there, or does not read the source.
    """
    if not edges:
        return graph
    out, editable = graph.edited()
    quant = dict[str, QuantParams]()
    for edge in edges:
        source, first = out.node(edge.source), out.node(edge.readers[0][0])
        axes = len(source.record.output.shape)
        if not -axes <= edge.axis < axes:
            raise GraphError(f"{source.where()}: is rounded along axis {edge.axis}; allowed is {-axes} to {axes - 1}")
        with editable.inserting_before(_earliest(out, edge)):
            made = editable.create_node("call_function", typed, (source.node,), {}, edge.name)
        made.name = edge.name
        kind = replace(source.record.output, format=None if edge.dynamic else parse(edge.format))
        made.meta = {META: _record(edge, f"{first.path}.rounded{edge.readers[0][1] or ''}", kind)}
        if not edge.dynamic:
            quant[edge.name] = edge.params
        for name, index in edge.readers:
            reader = out.node(name)
            if not 0 <= index < len(reader.node.args) or reader.node.args[index] is not source.node:
                raise GraphError(f"{reader.where()}: input {index} is not {edge.source!r}, which is to be rounded")
            reader.node.update_arg(index, made)
    out.quant.update(quant)
    return out.verify()


def _earliest(graph: Graph, edge: Edge) -> Any:  # a node of torch.fx
    """Return the reader that comes first."""
    readers = {name for name, _ in edge.readers}
    return next(node.node for node in graph.nodes() if node.name in readers)


def _record(edge: Edge, path: str, kind: TensorType) -> Record:
    if edge.dynamic:
        return Record("dynamic", path, kind, {"format": edge.format, "axis": edge.axis})
    return Record("requantize", path, kind)


def extremes(found: Mapping[str, tuple[Tensor, Tensor]], name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and greatest value of each feature so far, ``[features]`` on the last axis, with ``x`` too."""
    rows = x.reshape(-1, x.shape[-1])
    low, high = rows.amin(0), rows.amax(0)
    if name not in found:
        return low, high
    return torch.minimum(found[name][0], low), torch.maximum(found[name][1], high)
