"""Random orthogonal matrices from a seed: what turns weights so that no element stands out, and back (QuIP)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SEED_BITS = 32
SCALE_BITS = 16
BITS = 12  # significant, of weights that were turned back


@dataclass(frozen=True, eq=False)
class Turn:
    """Say how stored weights Q become weights W ``[outputs, inputs]``: ``W = U^T Q V diag(scale)``.

    U and V are random orthogonal matrices, each a permutation and a Kronecker product of two, and follow from the seed.

    Args:
        seed: 0 .. 2**32 - 1. scale: float64 ``[inputs]``, numbers of fp16.
    """

    seed: int
    scale: Tensor

    def forth(self, weight: Tensor) -> Tensor:
        """Return ``U W diag(1 / scale) V^T``, float64."""
        return turned(turned(weight.double() / self.scale, 2 * self.seed).T, 2 * self.seed + 1).T

    def back(self, stored: Tensor) -> Tensor:
        """Undo :meth:`forth`, to 12 significant bits: sums of float64 in another order then give the same numbers."""
        rows = turned(stored.double().T, 2 * self.seed + 1, back=True).T
        return _coarse(turned(rows, 2 * self.seed, back=True) * self.scale)

    def metric(self, gram: Tensor) -> Tensor:
        """Return what ``gram [inputs, inputs]`` of inputs becomes: errors of stored weights weigh as much as before."""
        scaled = gram * self.scale * self.scale[:, None]
        return turned(turned(scaled, 2 * self.seed).T, 2 * self.seed)

    def bits(self) -> int:
        """Return the bits of the seed and of the scales."""
        return SEED_BITS + SCALE_BITS * len(self.scale)


def _coarse(x: Tensor) -> Tensor:
    """Round to ``BITS`` significant bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**BITS).round(), exponent - BITS)


def turned(x: Tensor, seed: int, back: bool = False) -> Tensor:
    """Multiply the last axis by an orthogonal matrix, or by its transpose: ``x R^T``, ``x R``."""
    order, first, second = _parts(x.shape[-1], seed)
    p, q = len(first), len(second)
    if back:
        y = torch.einsum("...pq,pi,qj->...ij", x.reshape(*x.shape[:-1], p, q), first, second)
        out = torch.empty_like(x)
        out[..., order] = y.reshape(x.shape)
        return out
    y = torch.einsum("...ij,pi,qj->...pq", x[..., order].reshape(*x.shape[:-1], p, q), first, second)
    return y.reshape(x.shape)


@lru_cache(maxsize=8)
def _parts(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a permutation and two orthogonal matrices whose sizes multiply to ``size``, as near as may be."""
    p = next(p for p in range(int(size**0.5), 0, -1) if size % p == 0)
    draw = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=draw), _orthogonal(p, draw), _orthogonal(size // p, draw)


def _orthogonal(size: int, draw: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    found: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return found
