"""Count multiply-accumulates, parameters and stored bits of every node."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mase.graph import Graph, OpNode, TensorType
from mase.interpreter import is_exact
from mase.ops.base import OPS, HardwareOp
from passes.base import graph_pass


@dataclass(frozen=True)
class ShapesConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class NodeShape:
    """What one node is made of.

    Args:
        shape: of the produced tensor, one sample. macs: a sample; 0 where they are not counted (see ``uncounted``).
        parameters: elements. weight_bits: stored for them, shared fields counted.
        activation_bits: of the produced tensor, one sample. format: of the produced tensor, None for real values.
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    format: str | None
    macs: int
    parameters: int
    weight_bits: int
    activation_bits: int


@dataclass(frozen=True)
class ShapesReport:
    """All nodes in order of execution, and sums in which a tensor that two nodes share counts once.

    Args:
        uncounted: paths of nodes whose multiplications are not known.
    """

    nodes: tuple[NodeShape, ...]
    parameters: int
    weight_bits: int
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample."""
        return sum(node.macs for node in self.nodes)

    @property
    def bits_per_parameter(self) -> float:
        """Average stored bits of a parameter; 0 where there is none."""
        return self.weight_bits / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {**asdict(self), "macs": self.macs, "bits_per_parameter": self.bits_per_parameter}


@graph_pass("shapes", ShapesConfig, provides=("shapes",))
def shapes(graph: Graph, config: ShapesConfig) -> tuple[Graph, ShapesReport]:
    """Count what each node needs; the graph stays as it is.

    A layer with a weight matrix multiplies each produced element with one slice of it. A parameter without a format
    counts the bits of its dtype, unless its operator stores it on the accumulator's grid: then the bits of that memory.
    """
    nodes: list[NodeShape] = []
    owned: dict[tuple[int, torch.Size], tuple[int, int]] = {}  # elements and bits, by where they lie in memory
    for node in graph.nodes():
        if node.kind != "output":
            parts = dict(_stored(node))
            for tensor, bits in ((graph.tensors[key], bits) for key, bits in parts.items()):
                owned[tensor.data_ptr(), tensor.shape] = tensor.numel(), bits
            nodes.append(_node(node, parts))
    opaque = tuple(node.path for node in graph.operators() if node.kind == "opaque")
    sums = (sum(elements for elements, _ in owned.values()), sum(bits for _, bits in owned.values()))
    return graph, ShapesReport(tuple(nodes), *sums, opaque)


def _node(node: OpNode, stored: dict[str, int]) -> NodeShape:
    kind, shape = node.record.output, node.record.output.shape[1:]
    fmt = None if kind.format is None else str(kind.format)
    parameters = sum(node.graph.tensors[key].numel() for key in stored)
    bits = sum(stored.values()), _bits(kind, shape, node.params().axis)
    return NodeShape(node.name, node.path, node.kind, shape, fmt, _macs(node), parameters, *bits)


def _macs(node: OpNode) -> int:
    weight = node.record.operands.get("weight")
    if weight is None or len(weight.shape) < 2:
        return 0
    return math.prod(node.record.output.shape[1:]) * math.prod(weight.shape[1:])


def _stored(node: OpNode) -> Iterator[tuple[str, int]]:
    """Yield the table key of each parameter and the bits that it is stored in."""
    if node.kind == "opaque":
        for key in _opaque_keys(node):
            tensor = node.graph.tensors[key]
            yield key, tensor.numel() * tensor.element_size() * 8
        return
    memories = _memories(node)
    for role, kind in node.record.operands.items():
        own = sum(bits for name, bits in memories.items() if name.startswith(role.capitalize()))
        bits = _bits(kind, kind.shape, node.params(role).axis)
        yield node.record.key(role), own if kind.format is None and own else bits


def _memories(node: OpNode) -> dict[str, int]:
    """Return the bits of each memory of an exact node at one lane, where no word is padded."""
    if not is_exact(node) or all(kind.format is not None for kind in node.record.operands.values()):
        return {}
    op = OPS[node.kind]
    assert issubclass(op, HardwareOp)
    blocks = op.from_node(node).blocks(1, 1, {}).values()
    return {name: image.width * image.depth for block in blocks for name, image in block.memories().items()}


def _opaque_keys(node: OpNode) -> list[str]:
    target = str(node.node.target)
    if node.node.op == "get_attr":
        return [target]
    known = node.graph.tensors
    return [key for key in known if key.startswith(f"{target}.")] if node.node.op == "call_module" else []


def _bits(kind: TensorType, shape: tuple[int, ...], axis: int) -> int:
    """Return the bits of a tensor, shared fields counted; ``axis`` carries blocks, groups or channels."""
    dtype: torch.dtype = getattr(torch, kind.dtype)
    one = dtype.itemsize * 8 if kind.format is None else kind.format.bits(shape, axis)
    return round(one * math.prod(shape))
