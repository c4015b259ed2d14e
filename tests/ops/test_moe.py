"""Mixture of experts: every token visits its experts, weighted by the router; checked token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.single import compute, draw, refused

EXPERTS, FEATURES, HIDDEN = 4, 6, 5
OPERANDS = {
    "router": draw(EXPERTS, FEATURES),
    "gate_up": draw(EXPERTS, 2 * HIDDEN, FEATURES, seed=1),
    "down": draw(EXPERTS, FEATURES, HIDDEN, seed=2),
}


def token_by_token(x: Tensor, top: int, normalise: bool) -> Tensor:
    out = torch.zeros_like(x, dtype=torch.float64)
    p = {role: tensor.double() for role, tensor in OPERANDS.items()}
    for i, token in enumerate(x.double()):
        share = (p["router"] @ token).softmax(0)
        chosen = share.argsort(descending=True)[:top]
        total = share[chosen].sum() if normalise else 1.0
        for e in chosen:
            gate, up = (p["gate_up"][e] @ token).split(HIDDEN)
            out[i] += share[e] / total * (p["down"][e] @ (gate * gate.sigmoid() * up))
    return out


@pytest.mark.parametrize("top", [1, 2, 4])
@pytest.mark.parametrize("normalise", [True, False])
def test_every_token_is_the_weighted_sum_of_its_experts(top: int, normalise: bool) -> None:
    x = draw(7, FEATURES, seed=3)
    attrs = {"experts": EXPERTS, "top_k": top, "normalise": normalise}
    y = compute("moe", (x,), attrs, **OPERANDS)
    torch.testing.assert_close(y.double(), token_by_token(x, top, normalise), rtol=1e-4, atol=1e-5)  # float32
    assert torch.equal(compute("moe", (x.reshape(7, 1, FEATURES),), attrs, **OPERANDS).reshape(7, FEATURES), y)


def test_wrong_records_are_refused() -> None:
    x, attrs = draw(7, FEATURES), {"experts": EXPERTS, "top_k": 2}
    refused("gate_up is .* the first of 3", "moe", (x,), {**attrs, "experts": 3}, **OPERANDS)
    refused("top_k 5; allowed is 1 to 4", "moe", (x,), {**attrs, "top_k": 5}, **OPERANDS)
    refused("has no operand 'router'", "moe", (x,), attrs, **{k: v for k, v in OPERANDS.items() if k != "router"})
    refused("has no operand 'gate_up'", "moe", (x,), attrs, router=OPERANDS["router"])
