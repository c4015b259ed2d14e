"""A decoder of the Llama family: RMS norm, rotary positions, grouped-query attention, gated feed-forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Depth, Factor, Size

EPS = 1e-6  # of every RMS norm
Tables = tuple[Tensor, Tensor]  # cosine and sine of the rotary angles, each [length, head size]


class Rotary(nn.Module):
    """Turn the pairs ``(i, i + size / 2)`` of each head by an angle that grows with the position.

    Source: J. Su et al., RoFormer, 2021, equation 34; halves instead of neighbours, as in Hugging Face's Llama.
    """

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin


def tables(length: int, size: int, base: float) -> Tables:
    """Return cosine and sine of ``position * base**(-2i / size)``, for both halves of a head."""
    angles = torch.outer(torch.arange(length), base ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Causal attention; ``heads / kv_heads`` query heads share a key and a value head."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.size = dim // heads
        self.query = nn.Linear(dim, heads * self.size, bias=False)
        self.key = nn.Linear(dim, kv_heads * self.size, bias=False)
        self.value = nn.Linear(dim, kv_heads * self.size, bias=False)
        self.output = nn.Linear(heads * self.size, dim, bias=False)
        self.rotary = Rotary()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query, key, value = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        query, key = self.rotary(query, cos, sin), self.rotary(key, cos, sin)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y

    def split(self, x: Tensor) -> Tensor:
        """Return ``[batch, heads, length, size]`` of ``[batch, length, heads * size]``."""
        result: Tensor = x.unflatten(-1, (-1, self.size)).transpose(1, 2)
        return result


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``: SwiGLU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(self.activation(self.gate(x)) * self.up(x))
        return result


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual add."""

    def __init__(self, dim: int, attention: nn.Module, feed: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(dim, EPS), attention
        self.norm2, self.feed = nn.RMSNorm(dim, EPS), feed

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        result: Tensor = x + self.feed(self.norm2(x))
        return result


class Decoder(nn.Module):
    """Token ids ``[batch, length]`` to logits ``[batch, length, vocab]``.

    Args:
        feed: makes the feed-forward part of a layer. length: most tokens. tied: one matrix for embedding and head.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        vocab: int,
        dim: int,
        layers: int,
        heads: int,
        kv_heads: int,
        feed: Callable[[], nn.Module],
        length: int,
        base: float,
        tied: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(Block(dim, Attention(dim, heads, kv_heads), feed()) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, EPS)
        self.head = nn.Linear(dim, vocab, bias=False)
        for name, table in zip(("cos", "sin"), tables(length, dim // heads, base), strict=True):
            self.register_buffer(name, table, persistent=False)
        initialise(self, layers)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def initialise(model: nn.Module, layers: int) -> None:
    """Draw all matrices with deviation ``1 / sqrt(columns)``, those that end one of ``2 layers`` branches with less.

    Source: Y. LeCun et al., Efficient BackProp, 1998, section 4.6; the ends of residual branches as in A. Radford et
    al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3.
    """
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            ends = name.endswith(("output.weight", "down.weight", "down"))
            nn.init.normal_(weight, std=(weight.shape[-1] * (2 * layers if ends else 1)) ** -0.5)


def check_heads(model: str, dim: int, heads: int, kv_heads: int) -> None:
    """Refuse heads that do not fit: raise ``ConfigError``."""
    if dim % (2 * heads):
        raise ConfigError(f"model {model}: dim {dim}; allowed are multiples of 2 * heads = {2 * heads}")
    if heads % kv_heads:
        raise ConfigError(f"model {model}: kv_heads {kv_heads}; allowed are divisors of heads = {heads}")


@MODELS.add("llama")
def llama(
    vocab: Size = 256,
    dim: Size = 128,
    layers: Depth = 3,
    heads: Depth = 4,
    kv_heads: Depth = 2,
    hidden: Size = 352,
    length: Size = 512,
    base: Factor = 10000.0,
    tied: bool = False,
) -> nn.Module:
    """Build a Llama: token ids ``[batch, length]`` to logits of the next token.

    Args:
        vocab: tokens; 256 for bytes. hidden: of the feed-forward part. length: most tokens that fit. base: of the
            rotary angles. tied: one matrix for embedding and head.

    Source: H. Touvron et al., Llama 2, 2023; sizes are our own.
    """
    check_heads("llama", dim, heads, kv_heads)
    return Decoder(vocab, dim, layers, heads, kv_heads, lambda: FeedForward(dim, hidden), length, base, tied)
