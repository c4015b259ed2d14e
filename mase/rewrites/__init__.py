"""Nodes that are the same as other nodes, which have hardware: one file each; the fuse pass asks them all."""

from collections.abc import Callable

from mase.graph import Graph, OpNode
from mase.registry import Registry

Rewrite = Callable[[Graph, OpNode], None]  # replaces a node of a graph that may be edited, or leaves it
REWRITES: Registry[Rewrite] = Registry("rewrite", "mase.rewrites")
