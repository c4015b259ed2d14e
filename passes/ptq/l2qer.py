"""L2QER: a low-rank branch for which errors weigh as much as the inputs that they meet are large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from passes.ptq.base import METHODS, Layer
from passes.ptq.lowrank import LowRank

LEAST = 1e-4  # of a scale


@METHODS.add("l2qer")
@dataclass(frozen=True)
class L2qer(LowRank):
    """Scale the error by the greatest mean magnitude that each input has in a sample.

    Source: C. Zhang et al., LQER, ICML 2024, section 3.2.
    """

    needs: ClassVar[tuple[str, ...]] = ("mean_peak",)

    def metric(self, layer: Layer) -> Tensor | None:
        scale = layer.seen.need("mean_peak", layer.path).to(torch.float64).clamp(min=LEAST)
        return scale.square() / (scale.min() * scale.max())
