"""What of a traced graph belongs to one sample: analyses count on traced shapes, whose batch may be more than one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mase.graph import Graph, OpNode, TensorType

NOTHING = "none"  # dtype of a value that is not a tensor, such as a size


@dataclass(frozen=True)
class Sample:
    """Tell what one sample has of each node's share.

    Args:
        batch: samples in the trace. moving: names of the nodes that depend on an input; the others serve all samples.
    """

    batch: int
    moving: frozenset[str]

    @classmethod
    def of(cls, graph: Graph) -> Sample:
        """Find the batch, and follow the inputs through the graph."""
        moving = set[str]()
        for node in graph.nodes():
            if node.kind == "input" or any(producer.name in moving for producer in node.inputs):
                moving.add(node.name)
        return cls(_batch(graph), frozenset(moving))

    def share(self, node: OpNode, total: int) -> int:
        """Return what one sample has of ``total``, rounded up; all of it where the node does not depend on an input."""
        return -(-total // self.batch) if node.name in self.moving else total

    def shape(self, node: OpNode) -> tuple[int, ...]:
        """Return the shape of one sample of what a node gives; the whole shape where the batch is not axis 0."""
        shape = node.record.output.shape
        return shape[1:] if node.name in self.moving and shape[:1] == (self.batch,) else shape

    def bits(self, node: OpNode) -> int:
        """Return the bits of one sample of what a node gives, shared fields of its format counted."""
        kind, shape = node.record.output, self.shape(node)
        bits = stored_bits(kind, shape, node.params().axis)
        return bits if len(shape) < len(kind.shape) else self.share(node, bits)


def stored_bits(kind: TensorType, shape: Sequence[int], axis: int) -> int:
    """Return the bits of a tensor; ``axis`` carries blocks, groups or channels. Other values take none."""
    if kind.dtype == NOTHING:
        return 0
    dtype: torch.dtype = getattr(torch, kind.dtype)
    one = dtype.itemsize * 8 if kind.format is None else kind.format.bits(shape, axis)
    return round(one * math.prod(shape))


def _batch(graph: Graph) -> int:
    """Return the size of the axis that an input calls ``batch``, else that of axis 0 of the first input."""
    for node in graph.inputs:
        axes: list[str | None] = list(node.record.attrs.get("axes", ()))
        if "batch" in axes:
            return max(1, node.record.output.shape[axes.index("batch")])
    shapes = [node.record.output.shape for node in graph.inputs]
    return max(1, shapes[0][0]) if shapes and shapes[0] else 1
