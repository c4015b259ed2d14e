"""Which weights of a model must be found in its graph, and under which kind."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd

from mase.graph import Graph, OpNode

PRODUCTS = (nn.Linear, _ConvNd)
EXPERTS = ("gate_up_proj", "down_proj")


def expected(model: nn.Module) -> dict[str, str]:
    """Kind by path: linear units and convolutions, GPT-2's Conv1D among them, and experts held as 3-D parameters."""
    paths = {}
    for path, module in model.named_modules():
        if isinstance(module, _ConvNd):
            paths[path] = "conv"
        elif isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            paths[path] = "linear"
        for name in EXPERTS:
            if getattr(getattr(module, name, None), "ndim", 0) == 3:
                paths[f"{path}.{name}"] = "moe"
    return paths


def found(graph: Graph) -> dict[str, str]:
    """Kind by path of the nodes that multiply by parameters; experts by the key of their parameter."""
    kinds = {}
    for node in _all(graph):
        if node.kind in ("linear", "conv"):
            kinds[node.path] = node.kind
        elif node.kind == "moe":
            kinds |= {node.record.key(role): "moe" for role in ("gate_up", "down")}
    return kinds


def _all(graph: Graph) -> Iterator[OpNode]:
    yield from graph.operators()
    for body in graph.bodies.values():
        yield from _all(body)
