"""Mixture of experts: a router sends each token through a few of many feed-forward networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.activation import FUNCTIONS
from mase.ops.base import MANY, OPS, Family, Op, need, one_of
from mase.ops.operations import SOFTMAX, Operations


@OPS.add("moe")
class MixtureOfExperts(Op):
    """y = sum over the chosen experts of share * down(f(gate(x)) * up(x)), shares from softmax(router x).

    Operands: router ``[experts, features]``, gate_up ``[experts, 2 * hidden, features]`` (gate first), down ``[experts,
    features, hidden]``. Attributes: experts, top_k, function (silu), normalise (the shares of the chosen add up to 1),
    prune (chosen experts whose share is below so much of the greatest are dropped).
    A model that routes in another way brings a body, a nested graph, and names its inputs in ports; the operands stay
    these.
    """

    kind: ClassVar[str] = "moe"
    family: ClassVar[Family] = "compute"
    arity: ClassVar[tuple[int, int]] = (1, MANY)
    weights: ClassVar[tuple[str, ...]] = ("router", "gate_up", "down")

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        x, attrs = inputs[0].reshape(-1, inputs[0].shape[-1]), record.attrs
        shares, chosen = _route(x, operands["router"], attrs["top_k"])
        if "prune" in attrs:
            shares = torch.where(shares < attrs["prune"] * shares[:, :1], 0.0, shares)
        if attrs.get("normalise", True):
            shares = shares / shares.sum(-1, keepdim=True)
        shares, y = shares.to(x.dtype), torch.zeros_like(x)
        for expert in range(attrs["experts"]):
            tokens, place = torch.where((chosen == expert) & (shares > 0))
            hidden = _hidden(x[tokens], operands["gate_up"][expert], attrs.get("function", "silu"))
            part = F.linear(hidden, operands["down"][expert]) * shares[tokens, place, None]
            y = y.index_add(0, tokens, part)
        return y.reshape(inputs[0].shape)

    @classmethod
    def matrices(cls, record: Record) -> tuple[str, ...]:
        return ("gate_up", "down")

    @classmethod
    def feeds(cls, node: OpNode, x: Tensor, routed: bool = True) -> Iterator[tuple[str, int | None, Tensor]]:
        record, x = node.record, x.reshape(-1, x.shape[-1])
        known = routed and "router" in record.operands and "top_k" in record.attrs  # a body may route in another way
        chosen = _route(x, node.tensor("router"), record.attrs["top_k"])[1] if known else None
        for expert in range(record.attrs["experts"]):
            tokens = x if chosen is None else x[chosen.eq(expert).any(-1)]
            yield "gate_up", expert, tokens
            yield "down", expert, _hidden(tokens, node.tensor("gate_up")[expert], record.attrs.get("function", "silu"))

    @classmethod
    def multiplies(cls, node: OpNode) -> tuple[str, ...]:
        """Return router and experts, where these alone read what comes in; a model's own body may do more."""
        body = node.graph.bodies.get(node.name)
        alone = body is None or sum(1 for _ in _readers(body.inputs[0])) == len(("router", "gate_up"))
        return ("router", "gate_up") if "router" in node.record.operands and len(node.inputs) == 1 and alone else ()

    @classmethod
    def writes(cls, node: OpNode) -> Mapping[str, int]:
        return {"down": 1} if cls.multiplies(node) else {}

    @classmethod
    def operations(cls, node: OpNode) -> Operations | None:
        record, shape = node.record, node.inputs[0].record.output.shape
        if "top_k" not in record.attrs:
            return None
        features, tokens, experts = shape[-1], math.prod(shape[:-1]), record.attrs["experts"]
        gate_up, down = (math.prod(record.operands[role].shape[1:]) for role in ("gate_up", "down"))  # of one expert
        sent, routed = tokens * record.attrs["top_k"], tokens * experts * ("router" in record.operands)
        mixed = 2 * (down // features + features)  # function and gate of the hidden ones, share and sum of the results
        return Operations(sent * (gate_up + down) + routed * features, sent * mixed + routed * SOFTMAX)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        need(node, "gate_up", "down")
        gate_up, down = (node.record.operands[role].shape for role in ("gate_up", "down"))
        experts = node.record.attrs.get("experts")
        if len(gate_up) != 3 or len(down) != 3 or not gate_up[0] == down[0] == experts:
            raise GraphError(
                f"{node.where()}: gate_up is {gate_up}, down {down}; allowed are 3 axes, the first of {experts}"
            )
        if node.name in node.graph.bodies:
            return
        need(node, "router")
        one_of(node, "function", FUNCTIONS, "silu")
        if not 1 <= node.record.attrs.get("top_k", 0) <= experts:
            raise GraphError(f"{node.where()}: top_k {node.record.attrs.get('top_k')!r}; allowed is 1 to {experts}")


def _route(x: Tensor, router: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return shares and experts of each token, ``[tokens, top]``, the greatest share first."""
    shares, chosen = torch.topk(F.softmax(F.linear(x, router), -1, dtype=torch.float32), top, -1)
    return shares, chosen


def _hidden(x: Tensor, gate_up: Tensor, function: str) -> Tensor:
    """Return what the down projection of an expert multiplies."""
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return FUNCTIONS[function](gate, {}) * up


def _readers(node: OpNode) -> Iterator[OpNode]:
    """Yield the nodes behind an edge, those behind its views instead of them."""
    for user in node.users:
        if user.kind in OPS and OPS[user.kind].moves(user.record):
            yield from _readers(user)
        else:
            yield user
