"""How much each expert of a mixture matters: how often it is chosen, with what weight, and what its rounding does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mase import interpreter
from mase.errors import ConfigError
from mase.graph import Graph, OpNode
from mase.ops.activation import FUNCTIONS
from mase.ops.base import OPS

MATRICES = ("gate_up", "down")  # operands of a mixture that are one matrix an expert
Rounding = Callable[[Tensor], Tensor]  # of a matrix [outputs, inputs]


@dataclass(frozen=True, eq=False)
class Routing:
    """Where the tokens of a layer go.

    Args:
        chosen: experts of each token, the first one first, int64 ``[tokens, top_k]``. shares: the router's softmax
            there, before it is normalised. weights: what the experts' results are multiplied with.
    """

    chosen: Tensor
    shares: Tensor
    weights: Tensor

    @classmethod
    def of(cls, node: OpNode, x: Tensor) -> Routing:
        """Route tokens ``[tokens, features]``.

        Raises:
            ConfigError: the node does not say how it routes.
        """
        attrs = node.record.attrs
        if "router" not in node.record.operands or "top_k" not in attrs:
            raise ConfigError(f"{node.where()}: does not say how it routes; allowed are nodes with a router and top_k")
        shares, chosen = F.softmax(F.linear(x, node.tensor("router")), -1, dtype=torch.float32).topk(attrs["top_k"], -1)
        total = shares.sum(-1, keepdim=True) if attrs.get("normalise", True) else 1.0
        return cls(chosen, shares, shares / total)

    def counts(self, experts: int) -> tuple[list[float], list[float]]:
        """Return for each expert the share of choices, and the share of the weight it was chosen with."""
        chosen, shares = self.chosen.flatten(), self.shares.flatten().double()
        often = torch.bincount(chosen, minlength=experts).double()
        much = torch.zeros(experts, dtype=torch.float64).index_add_(0, chosen, shares)
        return (often / often.sum()).tolist(), (much / much.sum()).tolist()

    def ratio(self) -> float:
        """Return the median, over tokens, of the second share over the first: the threshold of dynamic pruning."""
        return float((self.shares[:, 1] / self.shares[:, 0]).median()) if self.shares.shape[1] > 1 else 0.0


def mixtures(graph: Graph) -> list[OpNode]:
    """Return the mixtures of experts of a graph."""
    return [node for node in graph.operators() if "experts" in node.record.attrs]


def inputs(graph: Graph, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, list[Tensor]]:
    """Return what each mixture takes, ``[tokens, features]`` a sample, by name of the node."""
    nodes = {node.inputs[0].name: node.name for node in mixtures(graph)}
    found: dict[str, list[Tensor]] = {name: [] for name in nodes.values()}

    def observe(node: OpNode, x: Tensor) -> None:
        if node.name in nodes:
            found[nodes[node.name]].append(x.reshape(-1, x.shape[-1]))

    for sample in samples:
        interpreter.run(graph, sample, observe=observe)
    return found


def errors(node: OpNode, samples: Sequence[Tensor], roundings: Sequence[Rounding]) -> list[list[float]]:
    """Return, for each expert and rounding, what rounding that expert alone does to the layer's result.

    That is the norm of the change, summed over samples.
    """
    experts, out = node.record.attrs["experts"], []
    routes = [Routing.of(node, x) for x in samples]
    for number in range(experts):
        gate_up, down = (node.tensor(role)[number].detach() for role in MATRICES)
        rounded = [(rounding(gate_up), rounding(down)) for rounding in roundings]
        sums = [0.0] * len(roundings)
        for x, route in zip(samples, routes, strict=True):
            tokens, place = torch.where(route.chosen == number)
            weight, x = route.weights[tokens, place, None], x[tokens]
            y = expert(node, x, gate_up, down)
            for i, (a, b) in enumerate(rounded):
                sums[i] += float(((expert(node, x, a, b) - y) * weight).norm())
        out.append(sums)
    return out


def expert(node: OpNode, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return what one expert makes of tokens."""
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(FUNCTIONS[node.record.attrs.get("function", "silu")](gate, {}) * up, down)


def thresholds(graph: Graph, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
    """Return the threshold of dynamic pruning of each mixture, by its path: the median of second share over first."""
    return {
        node.path: Routing.of(node, torch.cat(found)).ratio()
        for node, found in ((node, inputs(graph, samples)[node.name]) for node in mixtures(graph))
    }


def pruned(graph: Graph, samples: Sequence[tuple[Tensor, ...]]) -> Graph:
    """Return the graph with dynamic pruning: a token whose second share is below the threshold has one expert.

    The thresholds are those of ``samples``, so that about half of the choices of a second expert are dropped.

    Raises:
        ConfigError: a mixture does not compute what its kind says, so that its own arithmetic cannot stand in for it.
    """
    found, records, bodies = inputs(graph, samples), {}, dict(graph.bodies)
    for node in mixtures(graph):
        cut = Routing.of(node, torch.cat(found[node.name])).ratio()
        records[node.name] = replace(node.record, attrs={**node.record.attrs, "prune": cut})
        if bodies.pop(node.name, None) is not None:
            _same(graph, node, found[node.name][0])
    new = graph.replace(records)
    return Graph(new.module, new.tensors, new.quant, bodies=bodies).verify()


def _same(graph: Graph, node: OpNode, x: Tensor) -> None:
    operands = {role: node.tensor(role) for role in node.record.operands}
    body = graph.bodies[node.name]
    shaped = x.reshape(-1, *body.inputs[0].record.output.shape[1:]) if len(body.inputs) == 1 else None
    with torch.no_grad():
        own = None if shaped is None else OPS["moe"].float(node.record, operands, shaped)
        same = own is not None and shaped is not None and torch.allclose(own, body(shaped), rtol=1e-4, atol=1e-5)
    if not same:
        raise ConfigError(f"{node.where()}: routes in a way of its own; allowed is a softmax of the router and top_k")
