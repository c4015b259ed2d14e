"""Round to nearest: each weight to the nearest code of its format, without calibration data."""

from __future__ import annotations

from dataclasses import dataclass

from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Layer, Quantizer


@METHODS.add("rtn")
@dataclass(frozen=True)
class Rtn(Quantizer):
    """Round to nearest.

    Args:
        format: of the weights; any that has codes, such as ``int4g128a`` or ``mxint4b32``.
    """

    format: str = "int4g128a"

    def layer(self, layer: Layer) -> PackedWeight:
        return PackedWeight.of(layer.weight, parse(self.format))
