"""Graphs written node by node, for passes that read records and never run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed

Shape = tuple[int, ...]


class Sketch:
    """Write a graph: every method adds a node and returns it."""

    def __init__(self) -> None:
        self.fx, self.tensors = fx.Graph(), dict[str, Tensor]()
        self.bodies = dict[str, Graph]()

    def input(self, name: str, shape: Shape, dtype: str = "float32", **attrs: Any) -> fx.Node:
        return self._mark(self.fx.placeholder(name), Record("input", name, TensorType(shape, dtype), attrs))

    def add(
        self,
        kind: str,
        path: str,
        shape: Shape,
        *inputs: fx.Node,
        attrs: Mapping[str, Any] | None = None,
        operands: Mapping[str, Shape | Tensor] | None = None,
        body: Graph | None = None,
        ports: Sequence[str] = (),
    ) -> fx.Node:
        """Add a typed node; an operand is a shape, or a tensor of the table that may belong to other nodes as well."""
        types = {}
        for role, given in (operands or {}).items():
            tensor = given if isinstance(given, Tensor) else torch.ones(given)
            self.tensors[f"{path}.{role}"] = tensor
            types[role] = TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        record = Record(kind, path, TensorType(shape), dict(attrs or {}), types, ports=tuple(ports))
        node = self._mark(self.fx.call_function(typed, inputs), record)
        if body is not None:
            self.bodies[node.name] = body
        return node

    def opaque(self, path: str, shape: Shape, *inputs: fx.Node) -> fx.Node:
        return self._mark(self.fx.call_function(torch.cumsum, inputs), Record("opaque", path, TensorType(shape)))

    def graph(self, result: fx.Node) -> Graph:
        output = self.fx.output(result)
        output.meta[META] = Record("output", "output", result.meta[META].output)
        return Graph(NodeGraph(nn.Module(), self.fx), self.tensors, bodies=self.bodies)

    def _mark(self, node: fx.Node, record: Record) -> fx.Node:
        node.name, node.meta[META] = record.path, record
        return node


def single(kind: str, shapes: Sequence[Shape], result: Shape, ports: Sequence[str] = (), **more: Any) -> Graph:
    """Return a graph of one node; ``more`` are its attributes, ``operands`` among them by role."""
    sketch, operands = Sketch(), more.pop("operands", {})
    inputs = [sketch.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    return sketch.graph(sketch.add(kind, "it", result, *inputs, attrs=more, operands=operands, ports=ports))
