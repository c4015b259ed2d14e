"""Rotation by randomised Hadamard matrices, where both sides of it fold into weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.calib.absorb import Pair, pairs
from mase.graph import Graph
from passes.ptq.base import METHODS, Block, Method, Stage
from passes.ptq.fields import seeded


@METHODS.add("hadamard")
@dataclass(frozen=True)
class Hadamard(Method):
    """Rotate the values of attention head by head, and the columns of the layer behind it back.

    Outliers of a feature spread over its head; in float nothing changes, and nothing is computed more.

    Args:
        seed: of the signs.

    Source: Z. Liu et al., SpinQuant, 2024, rotation R2; S. Ashkboos et al., QuaRot, 2024.
    """

    seed: int = 0
    stage: ClassVar[Stage] = "fold"

    def __post_init__(self) -> None:
        seeded("hadamard.seed", self.seed)

    def run(self, block: Block) -> None:
        for pair in pairs(block.graph):
            if pair.head > 1:
                block.fold(rotated(block.graph, pair, rotation(pair.head, self.seed)))


def rotation(size: int, seed: int) -> Tensor:
    """Return an orthogonal matrix, float64: Hadamard times random signs; of other sizes than 2^k a random one."""
    draw = torch.Generator().manual_seed(seed)
    if size & (size - 1):
        q, r = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
        turn: Tensor = q * torch.sign(r.diagonal())
        return turn
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    signs = torch.randint(0, 2, (size,), generator=draw).double() * 2 - 1
    return torch.mul(h, signs / size**0.5)


def rotated(graph: Graph, pair: Pair, turn: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a pair of values and outputs with a rotation of every head folded in, by key."""
    size, old = len(turn), graph.tensors
    weight = old[pair.weight].detach().double()
    new = {pair.weight: (turn @ weight.reshape(-1, size, weight.shape[1])).reshape(weight.shape)}
    if pair.bias:
        new[pair.bias] = (old[pair.bias].detach().double().reshape(-1, size) @ turn.T).flatten()
    for key in pair.consumers:
        columns = old[key].detach().double()
        new[key] = (columns.reshape(*columns.shape[:-1], -1, size) @ turn.T).reshape(columns.shape)
    return {key: x.to(old[key].dtype) for key, x in new.items()}
