"""LQER: the low-rank branch of least error in the weights, by singular values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from passes.ptq.base import METHODS, Layer
from passes.ptq.lowrank import LowRank


@METHODS.add("lqer")
@dataclass(frozen=True)
class Lqer(LowRank):
    """Correct the error of the weights as it is; needs no calibration data.

    Source: C. Zhang et al., LQER, ICML 2024, section 3.1; the same as Z. Yao et al., ZeroQuant-V2, 2023.
    """

    def metric(self, layer: Layer) -> Tensor | None:
        return None
