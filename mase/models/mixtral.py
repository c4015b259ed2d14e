"""A decoder of the Mixtral family: Llama with a mixture of experts in place of the feed-forward part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.errors import ConfigError
from mase.frontend.modules import Lift
from mase.models.base import MODELS
from mase.models.llama import Decoder, check_heads
from mase.options import Depth, Factor, Size


class Experts(nn.Module):
    """SwiGLU experts held as two tensors: ``gate_up [experts, 2 hidden, dim]`` and ``down [experts, dim, hidden]``.

    Every expert computes every token and ``share`` weighs the results, so that no shape depends on the data: slower
    than choosing tokens, equal in its result.
    """

    def __init__(self, experts: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * hidden, dim))
        self.down = nn.Parameter(torch.empty(experts, dim, hidden))

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        gate, up = torch.einsum("btd,ehd->bteh", x, self.gate_up).chunk(2, -1)
        inner = functional.silu(gate) * up * share.unsqueeze(-1)
        return torch.einsum("bteh,edh->btd", inner, self.down)


class Mixture(nn.Module):
    """Send each token to the ``top`` experts that its router likes best, weighted by the router's renormalised share.

    Source: A. Jiang et al., Mixtral of Experts, 2024, section 2.1. No load-balancing loss: at this size none is needed.
    """

    def __init__(self, dim: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = Experts(experts, dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        best, index = logits.topk(self.top, -1)
        share = torch.zeros_like(logits).scatter(-1, index, best.softmax(-1))
        result: Tensor = self.experts(x, share)
        return result

    def mase_outline(self) -> Lift:
        """Say what this is as one node of a traced graph."""
        attrs = {"experts": self.router.out_features, "top_k": self.top, "function": "silu", "normalise": True}
        roles = {"router": "router.weight", "gate_up": "experts.gate_up", "down": "experts.down"}
        return Lift("moe", attrs, roles)


@MODELS.add("mixtral")
def mixtral(
    vocab: Size = 256,
    dim: Size = 96,
    layers: Depth = 3,
    heads: Depth = 4,
    kv_heads: Depth = 2,
    hidden: Size = 96,
    experts: Size = 4,
    top: Size = 2,
    length: Size = 512,
    base: Factor = 10000.0,
    tied: bool = False,
) -> nn.Module:
    """Build a Mixtral: token ids ``[batch, length]`` to logits of the next token.

    Args:
        hidden: of each expert. top: experts a token takes. The others are those of the model ``llama``.
    """
    check_heads("mixtral", dim, heads, kv_heads)
    if top > experts:
        raise ConfigError(f"model mixtral: top {top}; allowed is at most experts = {experts}")
    return Decoder(vocab, dim, layers, heads, kv_heads, lambda: Mixture(dim, hidden, experts, top), length, base, tied)
