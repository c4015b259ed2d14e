"""SignRoundV2: SignRound from searched scales, with one factor a group and a loss without outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from passes.ptq.base import METHODS
from passes.ptq.signround import Keep, SignRound


@METHODS.add("signround_v2")
@dataclass(frozen=True)
class SignRoundV2(SignRound):
    """Start from the scales of ``opt_rtn``; tune ``V`` and one factor in [0, 2] a group.

    Below 4 bits the thousandth of the outputs that err most is left out of the loss. The step that is kept is the best
    on one batch, as the losses that leave outliers out differ more from batch to batch than from step to step.

    Source: W. Cheng et al., SignRoundV2, 2025.
    """

    keep: Keep = "fixed"
    needs: ClassVar[tuple[str, ...]] = ("squares",)
    search: ClassVar[bool] = True
    suppress: ClassVar[bool] = True
    name: ClassVar[str] = "signround_v2"
