"""Low-rank corrections of quantized weights: what LQER, L2QER and QERA share (docs/ptq/qera.md)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import scipy.linalg
import torch
from torch import Tensor

from mase.calib.delta_loss import stored_bits
from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import Block, Layer, Method, Stage
from passes.ptq.fields import whole


@dataclass(frozen=True)
class LowRank(Method):
    """Give each quantized layer a branch ``y += b (a x)`` that makes good the most of its error.

    Args:
        rank: of the branch, at least 1; a layer with fewer inputs or outputs takes that many.
        format: of ``a`` and ``b``; ``e8m23ieee`` is float32, ``e8m7ieee`` bfloat16.
    """

    rank: int = 32
    format: str = "mxint8"
    stage: ClassVar[Stage] = "branch"
    branches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole(f"{self.name}.rank", self.rank, 1)
        parse(self.format)

    @property
    def name(self) -> str:
        """Name of the method, for errors."""
        return type(self).__name__.lower()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Sums over the inputs that this configuration needs."""
        return self.needs

    @property
    def calibrates(self) -> bool:
        return bool(self.wanted)

    def extra_bits(self, shape: tuple[int, int]) -> int:
        return branch_bits(shape, self.rank, self.format)

    @abstractmethod
    def metric(self, layer: Layer) -> Tensor | None:
        """Return how errors of weights are weighed: one float64 figure an input, a matrix, or None: all alike."""

    def run(self, block: Block) -> None:
        for layer in block.layers(self.wanted):
            packed = block.packed(layer.path)
            if packed is None:
                raise ConfigError(f"{self.name}: {layer.path} is not quantized; put a step such as rtn before this one")
            if packed.branch is not None:
                raise ConfigError(f"{self.name}: {layer.path} has a low-rank branch already; allowed is one")
            block.write(layer.path, replace(packed, branch=self.branch(layer, packed)))

    def branch(self, layer: Layer, packed: PackedWeight) -> tuple[PackedWeight, PackedWeight]:
        """Return the branch of a layer."""
        a, b = correction(layer.wanted - packed.dense(), self.metric(layer), self.rank)
        fmt = parse(self.format)
        return PackedWeight.of(a, fmt), PackedWeight.of(b, fmt)


def branch_bits(shape: tuple[int, int], rank: int, form: str) -> int:
    """Return the stored bits of the branch of a layer ``[outputs, inputs]``."""
    outputs, inputs = shape
    rank = min(rank, outputs, inputs)
    return stored_bits((rank, inputs), parse(form)) + stored_bits((outputs, rank), parse(form))


def correction(error: Tensor, metric: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Return the product of least ``tr((E - b a) M (E - b a)^T)`` among those of a rank.

    With M = S S^T the optimum projects E on the first left singular vectors of E S, which are the first eigenvectors of
    E M E^T: neither a root nor an inverse of M is needed, so a singular M does no harm. Where a layer has more outputs
    than inputs they are found from the smaller S^T E^T E S.

    Args:
        error: E, ``[outputs, inputs]``. metric: M, its diagonal, or None: the unit matrix.

    Returns:
        a: float64 ``[rank, inputs]``. b: float64 ``[outputs, rank]``, orthonormal columns.
    """
    e = error.to(torch.float64)
    rank = min(rank, *e.shape)
    if e.shape[0] <= e.shape[1]:
        b = _first(_weighed(e, metric) @ e.T, rank)
    else:
        scaled = e @ _root(metric) if metric is not None and metric.ndim > 1 else _weighed(e, _sqrt(metric))
        b = torch.linalg.qr(scaled @ _first(scaled.T @ scaled, rank))[0]
    return b.T @ e, b


def _weighed(e: Tensor, metric: Tensor | None) -> Tensor:
    return e if metric is None else e * metric if metric.ndim == 1 else e @ metric


def _sqrt(metric: Tensor | None) -> Tensor | None:
    return None if metric is None else metric.sqrt()


def _root(metric: Tensor) -> Tensor:
    """Return an S with ``S S^T = metric``; what is below zero by rounding is zero."""
    values, vectors = torch.linalg.eigh(metric)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root


def _first(symmetric: Tensor, count: int) -> Tensor:
    """Return the eigenvectors of the greatest eigenvalues."""
    if symmetric.is_cuda:
        found: Tensor = torch.linalg.eigh(symmetric)[1][:, -count:]
        return found.flip(1)
    size = len(symmetric)
    _, vectors = scipy.linalg.eigh(symmetric.numpy(), subset_by_index=(size - count, size - 1), check_finite=False)
    return torch.from_numpy(vectors).flip(1)
