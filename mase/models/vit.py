"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Count, Depth, Size


class Attention(nn.Module):
    """Attention of every patch to every patch."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y

    def split(self, x: Tensor) -> Tensor:
        """Return ``[batch, heads, patches, dim / heads]`` of ``[batch, patches, dim]``."""
        result: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return result


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual add."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.up, self.activation = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.down(self.activation(self.up(self.norm2(x))))
        return result


class VisionTransformer(nn.Module):
    """Patches by a convolution, learned positions, blocks, the mean over the patches, a classifier."""

    def __init__(
        self, channels: int, size: int, patch: int, dim: int, layers: int, heads: int, hidden: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


@MODELS.add("vit")
def vit(
    channels: Size = 3,
    size: Size = 32,
    patch: Size = 4,
    dim: Size = 64,
    layers: Count = 4,
    heads: Depth = 4,
    hidden: Size = 128,
    classes: Size = 10,
) -> nn.Module:
    """Build a vision transformer for images ``[batch, channels, size, size]``.

    Args:
        patch: side of the square patches. layers: pairs of attention and feed-forward; 0 leaves the embedding of
            patches, the norm and the classifier. hidden: of the feed-forward part.

    Source: A. Dosovitskiy et al., An Image is Worth 16x16 Words, 2020; the mean in place of a class token as in
    L. Beyer et al., Better plain ViT baselines for ImageNet-1k, 2022. Sizes are our own.
    """
    if size % patch:
        raise ConfigError(f"model vit: patch {patch}; allowed are divisors of size = {size}")
    if dim % heads:
        raise ConfigError(f"model vit: dim {dim}; allowed are multiples of heads = {heads}")
    return VisionTransformer(channels, size, patch, dim, layers, heads, hidden, classes)
