"""IR-QLoRA: QLoRA whose blocks of weights are shifted so that their codes have the most entropy."""

from __future__ import annotations

from dataclasses import dataclass

from passes.ptq.base import METHODS
from passes.ptq.qlora import Qlora


@METHODS.add("ir_qlora")
@dataclass(frozen=True)
class IrQlora(Qlora):
    """Do what ``qlora`` does, in ``nfq4s``: each block less a shift that is stored in 8 bits.

    Source: H. Qin et al., IR-QLoRA, ICML 2024, information calibration quantization.
    """

    format: str = "nfq4s"

    @property
    def name(self) -> str:
        return "ir_qlora"
