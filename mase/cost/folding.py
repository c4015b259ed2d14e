"""The cheapest lanes of a chain of operators, exactly: every folding of each, and the converters between them.

Dynamic programming along the chain: what lies downstream sees only the output lanes of an operator. So the least cost
of a chain up to an operator is kept for each of its output lanes, and no combination of foldings is ever left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mase.cost.device import device
from mase.cost.resources import Resources, bill
from mase.dataflow.width_converter import ConverterFoldings
from mase.dataflow.work import Foldings, Lanes
from mase.errors import UnsupportedOp
from mase.graph import OpNode
from mase.ops.base import HardwareOp

Costs = npt.NDArray[np.float64]
Lane = tuple[int, ...]  # lanes to choose among, the greatest first
ByHand = Mapping[str, tuple[int, int]]  # glob of module paths -> input and output lanes; the first match wins


@dataclass(frozen=True)
class Choice:
    """One folding of one operator, or one converter.

    Args:
        simd: input lanes. pe: output lanes. cycles: a sample. resources: of all its blocks. cost: in LUT-equivalents.
    """

    simd: int
    pe: int
    cycles: int
    resources: Resources
    cost: float = 0.0


@dataclass(frozen=True)
class Folded:
    """A chain with its lanes.

    Args:
        lanes: input and output lanes of each node. cost: of operators and converters, in LUT-equivalents.
        interval: cycles a sample of the slowest of them.
    """

    lanes: tuple[tuple[int, int], ...]
    cost: float
    interval: int


@dataclass(frozen=True, eq=False)
class Table:
    """Price every pair of input lanes (rows) and output lanes (columns); the cost is infinite where it cannot be."""

    simd: Lane
    pe: Lane
    cost: Costs
    cycles: Lanes


def fold(
    nodes: Sequence[OpNode], ops: Sequence[HardwareOp], target: str, limit: int | None, by_hand: ByHand | None = None
) -> Folded:
    """Return the cheapest lanes of a chain in which nothing takes more than ``limit`` cycles a sample.

    A node that follows (a reshape) takes the lanes that come to it and gives those of the next operator. FIFO depths
    are not known before the whole netlist is: each block is priced with ``Foldings.fifos``.

    Args:
        nodes, ops: in order of the stream; the first has lanes of its own.

    Raises:
        UnsupportedOp: the limit cannot be kept; says by which node. UnknownName: there is no such target.
    """
    places = [i for i, op in enumerate(ops) if not op.foldings.follows]
    tables = [_of_operator(nodes[i], ops[i], target, limit, by_hand or {}) for i in places]
    links = [
        _between(_converters(ops[i + 1 : j + 1]), target, limit, before.pe, after.simd)
        for i, j, before, after in zip(places, places[1:], tables, tables[1:], strict=False)
    ]
    best = reach = np.zeros(len(tables[0].simd))  # least costs so far, by output lanes and by input lanes
    ins, outs = list[Lanes](), list[Lanes]()  # what gave them
    for k, table in enumerate(tables):
        if k:
            reach, found = _least(best, links[k - 1].cost)
            outs.append(found)
            if np.isinf(reach).all():
                _too_slow(
                    nodes[places[k - 1] + 1], "the width converter", links[k - 1].cycles[np.isfinite(best)], limit
                )
        best, found = _least(reach, table.cost)
        ins.append(found)
    tail = _between(_converters(ops[places[-1] + 1 :]), target, limit, tables[-1].pe, tables[-1].pe)
    total = best + tail.cost.diagonal()
    if np.isinf(total).all():
        _too_slow(nodes[places[-1] + 1], "the width converter", tail.cycles.diagonal()[np.isfinite(best)], limit)
    out = int(total.argmin())
    chosen, cycles = list[tuple[int, int]](), [int(tail.cycles[out, out])]
    cost = float(total[out])
    for k in range(len(tables) - 1, -1, -1):
        into = int(ins[k][out])
        chosen.insert(0, (tables[k].simd[into], tables[k].pe[out]))
        cycles.append(int(tables[k].cycles[into, out]))
        if k:
            out = int(outs[k - 1][into])
            cycles.append(int(links[k - 1].cycles[out, into]))
    return Folded(_with_followers(places, chosen, len(ops)), cost, max(cycles))


def priced(foldings: Foldings, target: str, simd: int, pe: int) -> Choice:
    """Return what one folding takes and costs, in the prices that :func:`fold` compares."""
    total, cost = _prices(foldings, target, np.array([simd]), np.array([pe]))
    return Choice(simd, pe, int(foldings.cycles(simd, pe)), Resources(*total[:, 0].tolist()), float(cost[0]))


def _with_followers(places: Sequence[int], chosen: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """Return the lanes of all nodes of a chain: a follower gives what the next operator takes, the last what comes."""
    out: list[tuple[int, int]] = []
    lanes = 0
    for place, (simd, pe) in zip(places, chosen, strict=True):
        for _ in range(len(out), place):
            out.append((lanes, simd))
            lanes = simd
        out.append((simd, pe))
        lanes = pe
    return (*out, *[(lanes, lanes)] * (size - len(out)))


def _converters(ops: Sequence[HardwareOp]) -> tuple[ConverterFoldings, ...]:
    """Return what may stand before the last operator: a converter, or one for each reshape."""
    followers = tuple(op.foldings for op in ops if op.foldings.follows)
    if not followers and ops:
        return (ConverterFoldings.of(ops[-1].takes),)
    assert all(isinstance(one, ConverterFoldings) for one in followers)
    return followers  # type: ignore[return-value]  # just checked


def _of_operator(node: OpNode, op: HardwareOp, target: str, limit: int | None, by_hand: ByHand) -> Table:
    """Return the foldings of an operator that keep the limit; the one that is fixed by hand where there is one."""
    fixed = next((lanes for glob, lanes in by_hand.items() if fnmatchcase(node.path, glob)), None)
    if fixed is not None:
        circuit = op.circuit(*fixed, {})  # raises where they are not legal
        fixed = circuit.takes[0].lanes, circuit.gives[0].lanes
    table = _table(op.foldings, target, limit, fixed)
    if not table.cost.size:
        lanes = op.foldings.lanes() if fixed is None else fixed
        _too_slow(node, "" if fixed is None else "the chosen folding", np.asarray(op.foldings.cycles(*lanes)), limit)
    return table


def _too_slow(node: OpNode, what: str, cycles: Lanes, limit: int | None) -> NoReturn:
    found = (
        f"{what} takes {cycles.min()} cycles a sample"
        if what
        else f"needs {cycles.min()} cycles a sample at full width"
    )
    raise UnsupportedOp(f"{node.where()}: {found}; map.interval allows {limit}")


def _least(start: Costs, cost: Costs) -> tuple[Costs, Lanes]:
    """Return, for each column, the least sum of a start and a cost, and the row that gives it (of equals the first)."""
    total = start[:, None] + cost
    rows = total.argmin(0)
    return total[rows, np.arange(rows.size)], rows


@lru_cache(maxsize=2048)
def _table(foldings: Foldings, target: str, limit: int | None, fixed: tuple[int, int] | None) -> Table:
    simd, pe = foldings.lanes() if fixed is None else (np.array([fixed[0]]), np.array([fixed[1]]))
    cycles = np.broadcast_to(foldings.cycles(simd, pe), simd.shape)
    if limit is not None:
        fits = cycles <= limit
        simd, pe, cycles = simd[fits], pe[fits], cycles[fits]
    rows, row = np.unique(-simd, return_inverse=True)  # the widest first: of equal costs the fastest is taken
    columns, column = np.unique(-pe, return_inverse=True)
    cost, taken = np.full((rows.size, columns.size), np.inf), np.zeros((rows.size, columns.size), np.int64)
    cost[row, column], taken[row, column] = _prices(foldings, target, simd, pe)[1], cycles
    return Table(tuple((-rows).tolist()), tuple((-columns).tolist()), cost, taken)


@lru_cache(maxsize=2048)
def _between(converters: tuple[ConverterFoldings, ...], target: str, limit: int | None, pe: Lane, simd: Lane) -> Table:
    """Price what stands between output lanes (rows) and input lanes (columns); all but the first keep the latter."""
    before, after = np.array(pe)[:, None], np.array(simd)[None, :]
    cost, cycles = np.zeros((len(pe), len(simd))), np.zeros((len(pe), len(simd)), np.int64)
    for converter in converters:
        source, sink = np.broadcast_arrays(before, after)
        cost += _prices(converter, target, source.ravel(), sink.ravel())[1].reshape(source.shape)
        cycles = np.maximum(cycles, converter.cycles(source, sink))
        before = after
    if limit is not None:
        cost[cycles > limit] = np.inf
    return Table(pe, simd, cost, cycles)


def _prices(foldings: Foldings, target: str, simd: Lanes, pe: Lanes) -> tuple[Costs, Costs]:
    """Return LUT, FF, DSP and BRAM ``[4, foldings]``, and the cost of each folding."""
    where = device(target)
    total = np.zeros((4, simd.size))
    for work in foldings.work(simd, pe, foldings.fifos(simd, pe)).values():
        one = bill(work, where)
        for row, figure in zip(total, (one.lut, one.ff, one.dsp, one.bram), strict=True):
            row += figure
    if isinstance(foldings, ConverterFoldings):
        total[:, foldings.equal(simd, pe)] = 0
    return total, total[0] + where.dsp_weight * total[2] + where.bram_weight * total[3]
