"""GPTQ: columns one after the other, each error spread over the columns that are left."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor
from passes.ptq.groups import Groups, Steps, groups_of, searched

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
        if not 0 < self.damp <= 1:
            raise ConfigError(f"gptq: damp is {self.damp}; allowed is above 0, at most 1")

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"gptq: {layer.path}"
        hessian, inputs = layer.seen.hessian(where), layer.weight.shape[1]
        if layer.seen.tokens < inputs:
            text = f"{where}: {layer.seen.tokens} tokens for {inputs} inputs; pass at least {inputs}"
            warnings.warn(text, stacklevel=2)
        factor = Factor.of(hessian, self.damp, self.act_order, where)
        weight = factor.cleaned(layer.weight, where)  # before steps are fitted: they need not reach what no token uses
        groups = groups_of(parse(self.format), weight, where)
        steps = None
        if self.static_groups:
            steps = searched(groups, weight, hessian.diagonal()) if self.search else groups.fit(weight)
        order = factor.order
        weight = weight.clone() if order is None else weight[:, order]
        columns = torch.arange(groups.inputs) if order is None else order
        of = groups.group_of()[columns if steps is not None else torch.arange(groups.inputs)]
        codes, steps = _rounded(groups, weight, factor.upper, of, steps)
        if order is not None and self.static_groups:
            codes, order = codes[:, torch.argsort(order)], None
        return PackedWeight((len(weight), groups.inputs), (groups.piece(codes, steps, order),))


def _rounded(groups: Groups, w: Tensor, u: Tensor, of: Tensor, steps: Steps | None) -> tuple[Tensor, Steps]:
    """Return the codes of all columns and the steps; ``w`` is spent. Without steps groups are fitted when reached."""
    inputs, size = w.shape[1], groups.size
    block = size if size >= COLUMNS else COLUMNS // size * size
    codes, fitted = torch.empty(w.shape, dtype=torch.int64), list[Steps]()
    for i in range(0, inputs, block):
        j = min(i + block, inputs)
        part, error, own = w[:, i:j], torch.empty(len(w), j - i), u[i:j, i:j]
        for c in range(j - i):
            if steps is None and (i + c) % size == 0:
                fitted.append(groups.fit(part[:, c : c + size]))
            now = fitted[-1].at(slice(0, 1)) if steps is None else steps.at(of[i + c : i + c + 1])
            codes[:, i + c], value = _column(groups, part[:, c], now)
            error[:, c] = (part[:, c] - value) / own[c, c]
            part[:, c + 1 :].addr_(error[:, c], own[c, c + 1 :], alpha=-1)
        if j < inputs:
            w[:, j:].addmm_(error, u[i:j, j:], alpha=-1)
    return codes, Steps.joined(fitted) if steps is None else steps


def _column(groups: Groups, x: Tensor, now: Steps) -> tuple[Tensor, Tensor]:
    """Return the nearest codes of a column and their values, float32."""
    step = now.step[:, 0]
    offset = 0.0 if now.offset is None else now.offset[:, 0]
    zero = None if now.zero is None else now.zero[:, 0]
    codes = groups.shifted((x.to(torch.float64) - offset) / step, zero)
    units = codes if zero is None else codes - zero
    return codes, (groups.reals(units).to(torch.float64) * step + offset).to(torch.float32)
