"""A graph of one node, for kinds without hardware: what it computes, and what its record may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from mase.errors import GraphError
from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed


def kind_of(tensor: Tensor) -> TensorType:
    return TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def single(
    kind: str, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any] | None = None, /, **operands: Tensor
) -> Graph:
    """Return the graph of one node, not verified; its output type is left to what it computes."""
    graph = fx.Graph()
    holders = []
    for i, x in enumerate(inputs):
        holders.append(graph.placeholder(f"x{i}"))
        axes = [f"axis{j}_{i}" for j in range(x.ndim)]  # all free
        holders[-1].meta = {META: Record("input", f"x{i}", kind_of(x), {"axes": axes})}
    node = graph.call_function(typed, tuple(holders))
    kinds = {role: kind_of(tensor) for role, tensor in operands.items()}
    node.meta = {META: Record(kind, "node", TensorType((1,)), attrs or {}, kinds, "model.py:7")}
    graph.output(node).meta = {META: Record("output", "output", TensorType((1,)))}
    return Graph(NodeGraph(nn.Module(), graph), {f"node.{role}": tensor for role, tensor in operands.items()})


def compute(
    kind: str, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any] | None = None, /, **operands: Tensor
) -> Tensor:
    """Return what a verified graph of one node computes."""
    return single(kind, inputs, attrs, **operands).verify()(*inputs)


def refused(
    why: str, kind: str, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any] | None = None, /, **operands: Tensor
) -> None:
    """Assert that verify refuses a node, and names it."""
    with pytest.raises(GraphError, match=rf"node 'node' \({kind}, model.py:7\): {why}"):
        single(kind, inputs, attrs, **operands).verify()


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
