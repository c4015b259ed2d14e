"""Every useful folding of an operator, with cycles and cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mase.cost.device import device
from mase.cost.resources import Resources, bill
from mase.ops.base import HardwareOp
from mase.ops.work import Foldings, Lanes


@dataclass(frozen=True)
class Choice:
    """One folding of one operator.

    Args:
        simd: input lanes. pe: output lanes. cycles: a sample. resources: of all its blocks. cost: in LUT-equivalents.
    """

    simd: int
    pe: int
    cycles: int
    resources: Resources
    cost: float = 0.0


def choices(op: HardwareOp, target: str) -> list[Choice]:
    """Return the foldings of which no other is as fast and cheaper, fastest first.

    FIFO depths are not known before the whole netlist is: each block is priced with ``Foldings.fifos``.

    Raises:
        UnknownName: there is no such target.
    """
    return list(_choices(op.foldings, target))


def cheapest(op: HardwareOp, target: str, limit: int | None) -> Choice | None:
    """Return the cheapest folding that takes at most ``limit`` cycles a sample, the fastest of equals; None: none does.

    It is the one that :func:`choices` would give, without pricing those that are too slow.

    Raises:
        UnknownName: there is no such target.
    """
    return _cheapest(op.foldings, target, limit)


@lru_cache(maxsize=4096)
def _cheapest(foldings: Foldings, target: str, limit: int | None) -> Choice | None:
    simd, pe = foldings.lanes()
    cycles = np.broadcast_to(foldings.cycles(simd, pe), simd.shape)
    if limit is not None:
        fits = cycles <= limit
        simd, pe, cycles = simd[fits], pe[fits], cycles[fits]
    total, cost = _priced(foldings, target, simd, pe)
    if not cost.size:
        return None
    equal = np.flatnonzero(cost == cost.min())
    return _choice(simd, pe, cycles, total, cost, int(equal[cycles[equal].argmin()]))


@lru_cache(maxsize=4096)
def _choices(foldings: Foldings, target: str) -> tuple[Choice, ...]:
    simd, pe = foldings.lanes()
    cycles = np.broadcast_to(foldings.cycles(simd, pe), simd.shape)
    total, cost = _priced(foldings, target, simd, pe)
    return tuple(_choice(simd, pe, cycles, total, cost, i) for i in _front(cycles, cost))


def _priced(foldings: Foldings, target: str, simd: Lanes, pe: Lanes) -> tuple[np.ndarray, np.ndarray]:
    """Return LUT, FF, DSP and BRAM ``[4, foldings]``, and the cost of each folding."""
    where = device(target)
    total = np.zeros((4, simd.size))
    for work in foldings.work(simd, pe, foldings.fifos(simd, pe)).values():
        one = bill(work, where)
        for row, figure in zip(total, (one.lut, one.ff, one.dsp, one.bram), strict=True):
            row += figure
    return total, total[0] + where.dsp_weight * total[2] + where.bram_weight * total[3]


def _choice(simd: Lanes, pe: Lanes, cycles: Lanes, total: np.ndarray, cost: np.ndarray, i: int) -> Choice:
    return Choice(int(simd[i]), int(pe[i]), int(cycles[i]), Resources(*total[:, i].tolist()), float(cost[i]))


def _front(cycles: np.ndarray, cost: np.ndarray) -> list[int]:
    """Return the indices that no other beats in both, by ascending cycles; of equals, the first."""
    order = np.lexsort((np.arange(cost.size), cost, cycles))
    best = np.minimum.accumulate(np.concatenate(([np.inf], cost[order][:-1])))
    return [int(i) for i in order[cost[order] < best]]
