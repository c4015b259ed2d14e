"""QERA-exact of a 2048-wide layer beside the published way: a matrix square root, a full SVD and a linear solve.

Both get the same sum of outer products and the same 3-bit weights; rank 32, one thread. The error is that of the
outputs, per token; both are computed the same way, in float64. Ours is the least of all products of that rank; the
published one is solved in float32, whose rounding leaves a product that is not quite of that rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from bench.common import Figure, main
from mase.calib.statistics import Statistics
from passes.ptq.base import Layer
from passes.ptq.lowrank import correction
from passes.ptq.qera import Qera
from passes.ptq.rtn import Rtn

WIDTH, RANK = 2048, 32
SAMPLES, LENGTH = 16, 256


def measure() -> list[Figure]:
    """Return the times of both and the ratio of their errors."""
    layer = _layer()
    error = layer.weight - Rtn("mxint3").layer(layer).dense()
    metric = Qera(RANK).metric(layer)
    assert metric is not None
    seconds, ours = _timed(lambda: _ours(error, metric))
    slow, theirs = _timed(lambda: _published(error, metric * layer.seen.tokens, layer.seen.tokens))
    left = [float((((error.double() - found) @ metric) * (error.double() - found)).sum()) for found in (ours, theirs)]
    return [
        Figure("qera_exact_seconds", seconds, "s"),
        Figure("qera_published_seconds", slow, "s"),
        Figure("qera_exact_speed", slow / seconds, "x published", at_least=5.0),
        Figure("qera_exact_error", left[0] / left[1], "x published", at_most=1.0 + 1e-4),
    ]


def _layer() -> Layer:
    g, seen = torch.Generator().manual_seed(0), Statistics()
    mix = torch.randn(WIDTH, WIDTH, generator=g) / WIDTH**0.5 * torch.logspace(0, -1.5, WIDTH)[:, None]
    for _ in range(SAMPLES):
        seen.add(torch.randn(LENGTH, WIDTH, generator=g) @ mix, ("gram",))
    return Layer("layer", torch.randn(WIDTH, WIDTH, generator=g) * 0.02, seen)


def _ours(error: Tensor, metric: Tensor) -> Tensor:
    a, b = correction(error, metric, RANK)
    return b @ a


def _published(error: Tensor, total: Tensor, tokens: int) -> Tensor:
    """Do what the released code of QERA does (2.3 of its description): root of the sum, SVD in float32, a solve."""
    root = torch.from_numpy(np.real(scipy.linalg.sqrtm(total.numpy())) / tokens**0.5).to(torch.float32)
    u, s, v = torch.linalg.svd(root @ error.T)
    product: Tensor = torch.linalg.solve(root, u[:, :RANK] @ (s[:RANK, None] * v[:RANK]))
    return product.T.double()


def _timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


if __name__ == "__main__":
    main(__doc__, measure)
