"""QuIP: weights are turned until no element stands out, then rounded column by column (docs/ptq/quip.md)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mase.formats import QuantParams
from mase.formats.int import Int
from mase.formats.packed import PackedWeight, Piece
from mase.formats.scales import round_scale
from mase.formats.turn import Turn
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, Rounder, cleaned, hessian_of, propagate
from passes.ptq.fields import number, seeded, whole

LEAST = 1e-6  # of a diagonal, relative to its mean
TINY = 1e-30  # where all are 0


@dataclass(frozen=True)
class _Grid:
    """Levels of one step for a whole matrix, around 0."""

    step: float
    low: float
    top: int

    def rounder(self, weights: Tensor, column: int) -> Tensor:
        """Round to the nearest level."""
        return ((weights - self.low) / self.step).round_().clamp_(0, self.top).mul_(self.step).add_(self.low)


@METHODS.add("quip")
@dataclass(frozen=True)
class Quip(Quantizer):
    """Turn rows and columns by random orthogonal matrices, round to one grid with feedback, turn back.

    Args:
        bits: of a weight, 1..8. range: of the grid, in root mean squares of the turned weights.
        damp: as in GPTQ. seed: of the matrices, with the layer's path.

    Source: J. Chee et al., QuIP, 2023: incoherence processing, and LDLQ, which is the loop of GPTQ.
    """

    bits: int = 2
    range: float = 2.4
    damp: float = 0.01
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        whole("quip.bits", self.bits, 1, 8)
        number("quip.range", self.range, 0.1, 100)
        number("quip.damp", self.damp, 0, 1)
        seeded("quip.seed", self.seed)

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"quip: {layer.path}"
        hessian = hessian_of(layer.seen, where)
        weight = cleaned(layer.weight, hessian.diagonal() <= 0, where)
        turn = Turn(zlib.crc32(f"{self.seed} {layer.path}".encode()), _scale(weight, hessian))
        w = turn.forth(weight)
        metric = turn.metric(hessian)
        factor = Factor.of((metric + metric.T) / 2, self.damp, where=where)
        fmt, params, grid = self._grid(w)

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            return grid.rounder

        stored = propagate(w.float(), factor, begin, 0)
        return PackedWeight((w.shape[0], w.shape[1]), (Piece.of(stored, fmt, params),), turn=turn)

    def _grid(self, w: Tensor) -> tuple[Int, QuantParams, _Grid]:
        fmt, top = Int(self.bits, zero="real", scale_type="fp32"), (1 << self.bits) - 1
        edge = self.range * w.square().mean().sqrt().clamp(min=TINY)
        scale, offset = (round_scale(x, "fp32") for x in (2 * edge / top, -edge))
        return fmt, QuantParams(scale, offset=offset), _Grid(float(scale), float(offset), top)


def _scale(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return what columns are divided by: the fourth root of the squares of the weights over those of the inputs."""
    used, size = hessian.diagonal(), weight.double().square().sum(0)
    used, size = (x.clamp(min=LEAST * float(x.mean()) + TINY) for x in (used, size))
    scale = (size / used) ** 0.25
    return round_scale((scale / scale.log().mean().exp()).clamp(2.0**-14, 2.0**15), "fp16")
