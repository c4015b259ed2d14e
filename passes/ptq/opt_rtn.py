"""Round to nearest under searched scales: each group's scale has the least error, weighed by the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.groups import grouped, groups_of, searched


@METHODS.add("opt_rtn")
@dataclass(frozen=True)
class OptRtn(Quantizer):
    """Search the scale of each group, then round to nearest.

    Args:
        format: of the weights, with groups along the inputs. data: weigh errors by ``sum x^2`` of their inputs.

    Source: SignRoundV2 (W. Cheng et al., 2025), the pre-tuning scale search.
    """

    format: str = "int4g128f_fp16"
    data: bool = True
    needs: ClassVar[tuple[str, ...]] = ("squares",)

    def __post_init__(self) -> None:
        grouped("opt_rtn.format", self.format)

    @property
    def calibrates(self) -> bool:
        return self.data

    def layer(self, layer: Layer) -> PackedWeight:
        groups = groups_of(parse(self.format), layer.weight, f"opt_rtn: {layer.path}")
        steps = searched(groups, layer.weight, layer.seen.squares if self.data else None)
        return PackedWeight((layer.weight.shape[0], layer.weight.shape[1]), (groups.nearest(layer.weight, steps),))
