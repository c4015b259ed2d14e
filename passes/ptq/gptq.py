"""GPTQ: columns one after the other, each error spread over the columns that are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.fields import number
from passes.ptq.groups import Groups, Steps, grouped, groups_of, searched

COLUMNS = 128  # that are updated together


@METHODS.add("gptq")
@dataclass(frozen=True)
class Gptq(Quantizer):
    """Spread each column's error over later ones by the inverse Hessian of the layer's inputs.

    Args:
        format: of the weights, with groups or blocks along the inputs.
        act_order: take columns in falling order of their inputs' second moments.
        static_groups: steps of all groups come from the weights as they were, so that ``act_order`` keeps the order of
            storage; without it the order of the columns is stored.
        search: steps of the least weighted error (as ``opt_rtn``) instead of the format's own.
        damp: of the mean of the Hessian's diagonal, added to it, above 0 and at most 1.

    Source: E. Frantar et al., GPTQ, 2022, algorithm 1.
    """

    format: str = "int4g128a"
    act_order: bool = True
    static_groups: bool = True
    search: bool = False
    damp: float = 0.01
    needs: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        grouped("gptq.format", self.format)
        number("gptq.damp", self.damp, 0, 1, above=True)

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"gptq: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, self.act_order, where)
        weight = factor.cleaned(layer.weight, where)  # before steps are fitted: they need not reach what no token uses
        groups = groups_of(parse(self.format), weight, where)
        codes, size = torch.empty(weight.shape, dtype=torch.int64), groups.size
        fitted = [self._static(groups, weight, layer)] if self.static_groups else list[Steps]()

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            if not self.static_groups:
                fitted.append(groups.fit(rest[:, :size]))

            def rounder(weights: Tensor, column: int) -> Tensor:
                group = column // size if self.static_groups else 0
                codes[:, column], value = _column(groups, weights, fitted[-1].at(slice(group, group + 1)))
                return value

            return rounder

        block = size if size >= COLUMNS else COLUMNS // size * size
        propagate(weight, factor, begin, 0 if self.static_groups else size, block)
        order = None if self.static_groups else factor.order
        codes = codes if order is None else codes[:, order]
        return PackedWeight((len(weight), groups.inputs), (groups.piece(codes, Steps.joined(fitted), order),))

    def _static(self, groups: Groups, weight: Tensor, layer: Layer) -> Steps:
        """Return the steps of all groups from the weights as they were."""
        return searched(groups, weight, layer.seen.hessian().diagonal()) if self.search else groups.fit(weight)


def _column(groups: Groups, x: Tensor, now: Steps) -> tuple[Tensor, Tensor]:
    """Return the nearest codes of a column and their values, float32."""
    step = now.step[:, 0]
    offset = 0.0 if now.offset is None else now.offset[:, 0]
    zero = None if now.zero is None else now.zero[:, 0]
    codes = groups.shifted((x.to(torch.float64) - offset) / step, zero)
    units = codes if zero is None else codes - zero
    return codes, (groups.reals(units).to(torch.float64) * step + offset).to(torch.float32)
