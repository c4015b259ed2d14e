"""The cheapest lanes of a graph of operators, exactly: every folding of each, and what stands between them.

Each operator has two variables, its input lanes and its output lanes (one where both are always equal). The tables
that depend on them are the foldings of operators, the width converters on every wire, and the forks. Their least sum
(:mod:`mase.cost.elimination`) leaves no combination of foldings out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from mase.blocks.fork import ForkFoldings
from mase.cost.device import device
from mase.cost.elimination import Factor, least
from mase.cost.resources import Resources, bill
from mase.dataflow.width_converter import ConverterFoldings
from mase.dataflow.work import Fold, Foldings, Lanes, named
from mase.errors import UnsupportedOp
from mase.graph import OpNode
from mase.ops.base import Arithmetic

Costs = npt.NDArray[np.float64]
Lane = tuple[int, ...]  # lanes to choose among, the greatest first
ByHand = Mapping[str, Fold]  # glob of module paths -> folding; the first match wins


@dataclass(frozen=True)
class Choice:
    """One folding of one operator, or one converter.

    Args:
        fold: how far it is folded out, by name. cycles: a sample. resources: of all its blocks. cost: in
            LUT-equivalents.
    """

    fold: Fold
    cycles: int
    resources: Resources
    cost: float = 0.0


@dataclass(frozen=True)
class Folded:
    """A graph with its lanes.

    Args:
        lanes: input and output lanes of each node. cost: of operators, converters and forks, in LUT-equivalents.
        interval: cycles a sample of the slowest of them.
        exact: False where so many branches are open at once that only part of the foldings could be compared.
    """

    lanes: tuple[tuple[int, int], ...]
    cost: float
    interval: int
    exact: bool = True


@dataclass(frozen=True)
class Wiring:
    """Say who takes from whom.

    Args:
        producers: of each node, by its place, one an input; ``~k`` is entry k, what the host feeds.
        outputs: places of the nodes whose results leave, once for each time that they do.
    """

    producers: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, nodes: Sequence[OpNode]) -> Self:
        """Return the wiring of nodes of a graph in topological order; what comes from others is an entry."""
        places = {node.name: i for i, node in enumerate(nodes)}
        for node in nodes:
            for source in node.inputs:
                places.setdefault(source.name, len(nodes) - len(places) - 1)
        inputs = tuple(tuple(places[source.name] for source in node.inputs) for node in nodes)
        return cls(inputs, tuple(places[node.name] for node in nodes[0].graph.output.inputs if node.name in places))


@dataclass(frozen=True, eq=False)
class Table:
    """Price every pair of input lanes (rows) and output lanes (columns); the cost is infinite where it cannot be."""

    simd: Lane
    pe: Lane
    cost: Costs
    cycles: Lanes

    @cached_property
    def square(self) -> bool:
        """Tell whether both lanes are always equal: then they are one variable."""
        return self.simd == self.pe and bool(np.array_equal(np.isfinite(self.cost), np.eye(len(self.pe), dtype=bool)))

    @cached_property
    def diagonal(self) -> Table:
        """The prices where both lanes are equal, by lanes."""
        return Table(self.simd, self.pe, self.cost.diagonal(), self.cycles.diagonal())


class Link(NamedTuple):
    """A stretch of wire: from an operator or an entry through nodes that follow to an operator, or to where it ends.

    Args:
        source: place of what it comes from. through: places of the nodes. sink: place of the operator, or None where
            the stream leaves or forks: then it keeps its lanes. port: of the operator.
    """

    source: int
    through: tuple[int, ...]
    sink: int | None
    port: int = 0

    @property
    def first(self) -> int:
        """Place of the first node that it leads to."""
        return self.through[0] if self.through or self.sink is None else self.sink


class Priced(NamedTuple):
    """A table with its variables, what it is, and the node that it stands before."""

    scope: tuple[int, ...]
    table: Table
    what: str
    node: int


@dataclass(frozen=True)
class Routes:
    """The wires between operators.

    Args:
        links: by what they lead to, in topological order. roots: of a node whose stream keeps its lanes, the operator
            or entry that gave them. fed: the operator that an entry has its lanes from; of others the first consumer.
        forks: place of each tensor with several consumers, and how many forks it takes.
    """

    links: tuple[Link, ...]
    roots: Mapping[int, int]
    fed: Mapping[int, int]
    forks: tuple[tuple[int, int], ...]


def fold(
    nodes: Sequence[OpNode],
    ops: Sequence[Arithmetic],
    target: str,
    limit: int | None,
    by_hand: ByHand | None = None,
    wiring: Wiring | None = None,
    wide: bool = False,
) -> Folded:
    """Return the cheapest lanes of an acyclic graph in which nothing takes more than ``limit`` cycles a sample.

    A node that follows (a reshape) takes the lanes that come to it and gives those of the next operator; it keeps them
    where its result leaves or has several consumers. An entry has the lanes of the first operator that takes from it. A
    tensor with several consumers forks at the lanes of its producer. FIFO depths are not known before the whole netlist
    is: each block is priced with ``Foldings.fifos``.

    Args:
        nodes, ops: in topological order. wiring: theirs, where it is known already. wide: foldings by hand may go
            beyond an operator.

    Raises:
        UnsupportedOp: the limit cannot be kept; says by which node. UnknownName: there is no such target.
    """
    wiring = wiring or Wiring.of(nodes)
    routes = _routes(wiring, tuple(op.foldings.follows for op in ops))
    tables = {
        i: _of_operator(nodes[i], op, target, limit, _by_hand(nodes[i], op, by_hand or {}, wide))
        for i, op in enumerate(ops)
        if not op.foldings.follows
    }
    for link in routes.links:
        if (root := routes.roots.get(link.source, link.source)) < 0 and root not in routes.fed:
            raise UnsupportedOp(
                f"{nodes[link.first].where()}: no operator with lanes of its own takes what it is given"
            )
    variables = _Variables(tables, routes)
    operators = [variables.operator(place) for place in tables]
    wires = [
        variables.link(link, _converters(ops, link), target, limit)
        for link in routes.links
        if link.through or variables.differ(link)
    ]
    wires += [variables.fork(place, _forked(ops, routes, place), count, target, limit) for place, count in routes.forks]
    found = least(variables.sizes, [Factor(one.scope, one.table.cost) for one in (*operators, *wires)])
    if math.isinf(found.cost):
        _blame(nodes, variables.sizes, operators, wires, limit)
    cycles = [int(one.table.cycles[tuple(found.values[v] for v in one.scope)]) for one in (*operators, *wires)]
    return Folded(variables.lanes(found.values, len(ops)), found.cost, max(cycles), found.exact)


def priced(foldings: Foldings, target: str, simd: int, pe: int) -> Choice:
    """Return what one folding takes and costs, in the prices that :func:`fold` compares."""
    total, cost = _prices(foldings, target, np.array([simd]), np.array([pe]))
    return Choice(
        foldings.fold(simd, pe), int(foldings.cycles(simd, pe)), Resources(*total[:, 0].tolist()), float(cost[0])
    )


class _Variables:
    """Number the lanes that are chosen: input and output lanes of each operator, in order; one where they are equal."""

    def __init__(self, tables: Mapping[int, Table], routes: Routes) -> None:
        self._tables, self._routes = tables, routes
        self._simd: dict[int, int] = {}
        self._pe: dict[int, int] = {}
        self._values: list[Lane] = []  # of each variable
        for place, table in tables.items():
            self._simd[place] = len(self._values)
            self._values += [table.simd] if table.square else [table.simd, table.pe]
            self._pe[place] = len(self._values) - 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each variable."""
        return tuple(map(len, self._values))

    def operator(self, place: int) -> Priced:
        """Return the prices of an operator."""
        table, scope = self._tables[place], (self._simd[place], self._pe[place])
        return Priced(scope[:1], table.diagonal, "", place) if table.square else Priced(scope, table, "", place)

    def differ(self, link: Link) -> bool:
        """Tell whether a stretch of wire may need a converter: not one to the operator that an entry comes for."""
        return len({*self._ends(link)}) > 1

    def link(self, link: Link, converters: tuple[ConverterFoldings, ...], target: str, limit: int | None) -> Priced:
        """Return the prices of the converters of a stretch of wire."""
        ends = self._ends(link)
        table = _between(converters, target, limit, *(self._values[v] for v in ends))
        if ends[0] == ends[1]:
            return Priced(ends[:1], table.diagonal, "the width converter", link.first)
        return Priced(ends, table, "the width converter", link.first)

    def fork(self, place: int, foldings: ForkFoldings, count: int, target: str, limit: int | None) -> Priced:
        """Return the prices of the forks of a tensor."""
        variable = self._of_tensor(place)
        table = _forks(foldings, count, target, limit, self._values[variable])
        return Priced((variable,), table, "the fork", place if place >= 0 else self._routes.fed[place])

    def lanes(self, values: Sequence[int], size: int) -> tuple[tuple[int, int], ...]:
        """Return input and output lanes of each node from the index of each variable."""
        chosen = [lanes[i] for lanes, i in zip(self._values, values, strict=True)]
        out = [(0, 0)] * size
        for place in self._tables:
            out[place] = chosen[self._simd[place]], chosen[self._pe[place]]
        for link in self._routes.links:
            lanes = tuple(chosen[v] for v in self._ends(link))
            for place in link.through:
                out[place] = lanes[0], lanes[1]
                lanes = lanes[1], lanes[1]
        return tuple(out)

    def _ends(self, link: Link) -> tuple[int, int]:
        source = self._of_tensor(link.source)
        return source, source if link.sink is None else self._simd[link.sink]

    def _of_tensor(self, place: int) -> int:
        """Return the variable of the lanes at which a tensor leaves its producer."""
        place = self._routes.roots.get(place, place)
        return self._pe[place] if place >= 0 else self._simd[self._routes.fed[place]]


@lru_cache(maxsize=64)
def _routes(wiring: Wiring, follows: tuple[bool, ...]) -> Routes:
    """Return the stretches of wire between operators, and the forks."""
    uses = Counter(wiring.outputs)
    for sources in wiring.producers:
        uses.update(sources)

    def upstream(place: int) -> tuple[int, tuple[int, ...]]:
        through = list[int]()
        while place >= 0 and follows[place] and uses[place] == 1:
            through.insert(0, place)
            place = wiring.producers[place][0]
        return place, tuple(through)

    links = list[Link]()
    for place, sources in enumerate(wiring.producers):
        if not follows[place]:
            links += [Link(*upstream(source), place, port) for port, source in enumerate(sources)]
        elif uses[place] != 1 or place in wiring.outputs:  # its stream forks or leaves
            source, through = upstream(sources[0])
            links.append(Link(source, (*through, place), None))
    roots: dict[int, int] = {}
    for link in links:
        if link.sink is None:
            roots[link.through[-1]] = roots.get(link.source, link.source)
    fed: dict[int, int] = {}
    for link in links:
        if link.sink is not None:
            fed.setdefault(roots.get(link.source, link.source), link.sink)
    forks = tuple((place, count - 1) for place, count in sorted(uses.items()) if count > 1)
    return Routes(tuple(links), roots, fed, forks)


def _converters(ops: Sequence[Arithmetic], link: Link) -> tuple[ConverterFoldings, ...]:
    """Return what may stand on a stretch of wire: a converter, or one for each reshape."""
    if link.through:
        return tuple(ConverterFoldings.between(ops[place].takes[0], ops[place].gives[0]) for place in link.through)
    assert link.sink is not None
    return (ConverterFoldings.of(ops[link.sink].takes[link.port]),)


def _forked(ops: Sequence[Arithmetic], routes: Routes, place: int) -> ForkFoldings:
    """Return the fork of a tensor before its lanes are known."""
    if place >= 0:
        return ForkFoldings.of(ops[place].gives[0])
    link = next(link for link in routes.links if link.source == place)
    return ForkFoldings.of(ops[link.first].takes[0 if link.through else link.port])


def _of_operator(node: OpNode, op: Arithmetic, target: str, limit: int | None, fixed: tuple[int, int] | None) -> Table:
    """Return the foldings of an operator that keep the limit; the one that is fixed by hand where there is one."""
    table = _table(op.foldings, target, limit, fixed)
    if not table.cost.size:
        lanes = op.foldings.lanes() if fixed is None else fixed
        least = int(np.min(op.foldings.cycles(*lanes)))
        _too_slow(node, "" if fixed is None else "the chosen folding", least, limit)
    return table


def _by_hand(node: OpNode, op: Arithmetic, by_hand: ByHand, wide: bool) -> tuple[int, int] | None:
    """Return the lanes of a folding that is fixed by hand, as they are built; None where none is.

    Raises:
        UnsupportedOp: the operator cannot be folded so, or is smaller and not to be ``wide``; names the nearest.
    """
    fold = next((fold for glob, fold in by_hand.items() if fnmatchcase(node.path, glob)), None)
    if fold is None:
        return None
    what = f"{node.where()}: a folding of {named(fold)}"
    try:
        circuit = op.circuit(*op.foldings.sides(fold), {})
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{what}: {error}") from error
    lanes = circuit.takes[0].lanes, circuit.gives[0].lanes
    most = tuple(int(side.max()) for side in op.foldings.lanes())
    nearest = min(lanes[0], most[0]), min(lanes[1], most[1])
    if nearest != lanes and not wide:
        allowed = named(op.foldings.fold(*most))
        raise UnsupportedOp(f"{what}: it has at most {allowed}; the nearest is {named(op.foldings.fold(*nearest))}")
    return lanes


def _blame(
    nodes: Sequence[OpNode], sizes: Sequence[int], operators: list[Priced], wires: list[Priced], limit: int | None
) -> NoReturn:
    """Raise UnsupportedOp for the first wire that cannot keep the limit together with what stands before it."""

    def feasible(count: int) -> list[Factor]:
        every = (*operators, *wires[:count])
        return [Factor(one.scope, np.where(np.isinf(one.table.cost), np.inf, 0.0)) for one in every]

    at = bisect_left(range(1, len(wires)), True, key=lambda count: math.isinf(least(sizes, feasible(count)).cost))
    wire = wires[at]
    cycles = least(sizes, [*feasible(at), Factor(wire.scope, wire.table.cycles.astype(np.float64))]).cost
    _too_slow(nodes[wire.node], wire.what, int(cycles), limit)


def _too_slow(node: OpNode, what: str, cycles: int, limit: int | None) -> NoReturn:
    found = f"{what} takes {cycles} cycles a sample" if what else f"needs {cycles} cycles a sample at full width"
    raise UnsupportedOp(f"{node.where()}: {found}; map.interval allows {limit}")


@lru_cache(maxsize=2048)
def _table(foldings: Foldings, target: str, limit: int | None, fixed: tuple[int, int] | None) -> Table:
    simd, pe = foldings.lanes() if fixed is None else (np.array([fixed[0]]), np.array([fixed[1]]))
    cycles = np.broadcast_to(foldings.cycles(simd, pe), simd.shape)
    if limit is not None:
        fits = cycles <= limit
        simd, pe, cycles = simd[fits], pe[fits], cycles[fits]
    (rows, row), (columns, column) = _ranked(simd), _ranked(pe)
    cost, taken = np.full((rows.size, columns.size), np.inf), np.zeros((rows.size, columns.size), np.int64)
    cost[row, column], taken[row, column] = _prices(foldings, target, simd, pe)[1], cycles
    return Table(tuple(rows.tolist()), tuple(columns.tolist()), cost, taken)


def _ranked(lanes: Lanes) -> tuple[Lanes, Lanes]:
    """Return the different lanes, the widest first (of equal costs the fastest is taken), and the place of each."""
    found = np.flatnonzero(np.bincount(lanes))[::-1]
    places = np.empty(int(found.max(initial=0)) + 1, np.int64)
    places[found] = np.arange(found.size)
    return found, places[lanes]


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
    total[:, foldings.absent(simd, pe)] = 0
    return total, total[0] + where.dsp_weight * total[2] + where.bram_weight * total[3]


@lru_cache(maxsize=512)
def _forks(foldings: ForkFoldings, count: int, target: str, limit: int | None, lanes: Lane) -> Table:
    """Price ``count`` forks of one tensor at each of some lanes."""
    every = np.array(lanes)
    cost, cycles = count * _prices(foldings, target, every, every)[1], foldings.cycles(every, every)
    return Table(lanes, lanes, cost if limit is None else np.where(cycles > limit, np.inf, cost), cycles)
