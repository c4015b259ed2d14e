"""The dataflow graph as a picture: where nodes lie and how edges run, across a wide page or down a narrow one.

A node's rank is the longest way to it. Nodes of a rank lie in slots side by side, each in the slot of its producer
where that is free, so a chain is a straight line; what skips ranks keeps one free slot all the way, the same for all
edges of a tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count, pairwise
from types import MappingProxyType

from mase.errors import GraphError
from mase.ops.base import OPS
from mase.report.summary import Dataflow, Edge, Layer, Node

ENDS = {"input": "end", "output": "end", "module": "module"}  # families of nodes that are no operators
WIDTH, BROAD, HEIGHT = 132, 220, 88  # of a node in a wide and in a narrow picture, in pixels
ACROSS, DOWN = 74, 40  # between ranks, in a wide and in a narrow picture: room for a label
BESIDE = 20  # between slots: room for a remark above a node
LANE = 24  # of a slot that only edges pass, with its distance
MARGIN = 20  # around everything: where edges turn into the next row
PAGE = 1204  # width of the report where the window has room for it: six nodes
TRACK = 34  # between edges on their way from one row to the next: room for their labels

Point = tuple[float, float]
Place = tuple[int, int]  # rank, slot


@dataclass(frozen=True)
class Remark:
    """What a box says besides its kind, in three lines at most; ``link``: id of an element that it leads to."""

    lines: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Box:
    """A node in its place (pixels from the left top)."""

    x: float
    y: float
    node: Node
    title: str
    layer: Layer | None
    family: str
    remark: Remark


@dataclass(frozen=True)
class Wire:
    """An edge: its SVG path, the tip of its arrow, and its label's place (None: another edge of the tensor has one)."""

    path: str
    tip: Point
    edge: Edge
    label: Point | None


@dataclass(frozen=True)
class Picture:
    """A drawing of ``width`` x ``height`` pixels; nodes are ``node`` x ``HEIGHT``; ``down``: ranks below each other."""

    width: float
    height: float
    node: float
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    down: bool = False


@dataclass(frozen=True)
class Plan:
    """Rank and slot of each node (by name); the slot that an edge keeps on its way past other ranks."""

    nodes: Mapping[str, Place]
    edges: tuple[Edge, ...]
    lanes: Mapping[Edge, int]

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return 1 + max((rank for rank, _ in self.nodes.values()), default=-1)

    def slots(self, ranks: range, room: float) -> list[float]:
        """Return where each slot of these ranks begins, and the last ends: ``room`` for nodes, less for edges alone."""
        full = {slot for rank, slot in self.nodes.values() if rank in ranks}
        lanes = {lane for edge, lane in self.lanes.items() if any(rank in ranks for rank in self.between(edge))}
        sizes = (room if slot in full else LANE for slot in range(1 + max(full | lanes, default=0)))
        return list(accumulate(sizes, initial=0.0))

    def between(self, edge: Edge) -> range:
        """Return the ranks that an edge passes by."""
        return range(self.nodes[edge.source][0] + 1, self.nodes[edge.target][0])


def plan(graph: Dataflow) -> Plan:
    """Give every node its rank and slot.

    Raises:
        GraphError: a name stands twice, or an edge does not lead from a node to a later one.
    """
    edges = tuple(dict.fromkeys(graph.edges))
    _check(graph, edges)
    producers: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        producers[edge.target].append(edge.source)
    places: dict[str, Place] = {}
    taken: set[Place] = set()
    for node in graph.nodes:
        before = [places[source] for source in producers[node.name]]
        rank = 1 + max((rank for rank, _ in before), default=-1)
        places[node.name] = (rank, _free([rank], taken, min((slot for _, slot in before), default=0)))
        taken.add(places[node.name])
    return Plan(places, edges, _lanes(edges, places, taken))


def _lanes(edges: Sequence[Edge], places: Mapping[str, Place], taken: set[Place]) -> dict[Edge, int]:
    """Give the edges of a tensor that pass by ranks one free slot together."""
    passing: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        if places[edge.target][0] > places[edge.source][0] + 1:
            passing[edge.source].append(edge)
    lanes: dict[Edge, int] = {}
    for source, together in passing.items():
        passed = range(places[source][0] + 1, max(places[edge.target][0] for edge in together))
        lane = _free(passed, taken, 0)
        taken.update((rank, lane) for rank in passed)
        lanes |= dict.fromkeys(together, lane)
    return lanes


def _check(graph: Dataflow, edges: Sequence[Edge]) -> None:
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    if len(order) < len(graph.nodes):
        raise GraphError(f"dataflow graph: {len(graph.nodes) - len(order)} node names are used twice")
    for edge in edges:
        if not order.get(edge.source, len(order)) < order.get(edge.target, -1):
            raise GraphError(f"dataflow graph: edge {edge.source!r} -> {edge.target!r} does not lead to a later node")


Remarks = Mapping[str, Remark]  # by name of node
NO_REMARKS: Remarks = MappingProxyType({})


def wide(
    graph: Dataflow,
    layers: Sequence[Layer] = (),
    width: float = PAGE,
    remarks: Remarks = NO_REMARKS,
    start: str = "",
) -> Picture:
    """Draw ranks from left to right, in as many rows as ``width`` pixels ask for; one column at least.

    Args:
        layers: told by their path. remarks: by name of node. start: of paths, which titles leave out.
    """
    return Across(plan(graph), width).draw(graph, layers, remarks, start)


def tall(graph: Dataflow, layers: Sequence[Layer] = (), remarks: Remarks = NO_REMARKS, start: str = "") -> Picture:
    """Draw ranks from top to bottom, for a narrow page; arguments as for :func:`wide`."""
    return Down(plan(graph)).draw(graph, layers, remarks, start)


class Drawing(ABC):
    """Turn a plan into coordinates; nodes are ``node`` pixels wide."""

    node: float

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def draw(self, graph: Dataflow, layers: Sequence[Layer], remarks: Remarks, start: str) -> Picture:
        """Return the picture."""
        known = {layer.path: layer for layer in layers}
        boxes = tuple(
            Box(
                *self.corner(self.plan.nodes[node.name]),
                node,
                node.path.removeprefix(start),
                None if node.kind == "input" else known.get(node.path),  # an argument may be called as a module is
                family(node.kind),
                remarks.get(node.name, Remark()),
            )
            for node in graph.nodes
        )
        wires, labelled = [], set[str]()
        for edge in self.plan.edges:
            path, tip = self.route(edge)
            wires.append(Wire(path, tip, edge, None if edge.source in labelled else self.label(edge.source)))
            labelled.add(edge.source)
        return Picture(*self.size(), self.node, boxes, tuple(wires), isinstance(self, Down))

    def stops(self, edge: Edge) -> list[Place]:
        """Return the places that an edge goes through, both ends included."""
        passed = [(rank, self.plan.lanes[edge]) for rank in self.plan.between(edge)]
        return [self.plan.nodes[edge.source], *passed, self.plan.nodes[edge.target]]

    @abstractmethod
    def size(self) -> Point:
        """Return width and height."""

    @abstractmethod
    def corner(self, place: Place) -> Point:
        """Return the left top of a place."""

    @abstractmethod
    def route(self, edge: Edge) -> tuple[str, Point]:
        """Return the SVG path of an edge and where it ends."""

    @abstractmethod
    def label(self, name: str) -> Point:
        """Return where the label of what a node produces stands."""


class Down(Drawing):
    """One column of ranks."""

    node = BROAD

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.lefts = plan.slots(range(plan.ranks), BROAD + 2 * BESIDE)

    def size(self) -> Point:
        return 2 * MARGIN + self.lefts[-1] - 2 * BESIDE, 2 * MARGIN + self.plan.ranks * (HEIGHT + DOWN) - DOWN

    def corner(self, place: Place) -> Point:
        return MARGIN + self.lefts[place[1]], MARGIN + place[0] * (HEIGHT + DOWN)

    def top(self, place: Place) -> Point:
        """Return where an edge enters a place."""
        left, right = self.lefts[place[1]], self.lefts[place[1] + 1] - 2 * BESIDE
        return MARGIN + (left + right) / 2, self.corner(place)[1]

    def route(self, edge: Edge) -> tuple[str, Point]:
        tops = list(map(self.top, self.stops(edge)))
        path = [f"M{_at(tops[0][0], tops[0][1] + HEIGHT)}"]
        for (x, y), (to_x, to_y) in pairwise(tops):
            middle = (y + HEIGHT + to_y) / 2
            path.append(f"C{_at(x, middle)} {_at(to_x, middle)} {_at(to_x, to_y)}")
            if to_y != tops[-1][1]:
                path.append(f"V{to_y + HEIGHT:g}")
        return "".join(path), tops[-1]

    def label(self, name: str) -> Point:
        x, y = self.corner(self.plan.nodes[name])
        return x + self.node / 2 + 10, y + HEIGHT + DOWN / 2


class Across(Drawing):
    """Rows of ranks; an edge into the next row runs below its row, back to the left."""

    node = WIDTH

    def __init__(self, plan: Plan, width: float) -> None:
        super().__init__(plan)
        fitting = max(1, int((width - 2 * MARGIN + ACROSS) // (WIDTH + ACROSS)))
        rows = max(1, -(-plan.ranks // fitting))
        self.columns = max(1, -(-plan.ranks // rows))  # rows of the same length
        self.tracks: dict[tuple[int, str], int] = {}  # by row and producer: all edges of one tensor share a track
        self.tops, self.bottoms, self.slots = [float(MARGIN)], list[float](), list[list[float]]()  # by row
        for row in range(-(-plan.ranks // self.columns)):
            last = (row + 1) * self.columns - 1
            crossing = [e.source for e in plan.edges if plan.nodes[e.source][0] <= last < plan.nodes[e.target][0]]
            self.tracks |= {(row, source): i for i, source in enumerate(dict.fromkeys(crossing))}
            self.slots.append(plan.slots(range(last + 1 - self.columns, last + 1), HEIGHT + BESIDE))
            self.bottoms.append(self.tops[-1] + self.slots[-1][-1] - BESIDE)
            self.tops.append(self.bottoms[-1] + TRACK * (len(set(crossing)) + 1))

    def size(self) -> Point:
        width = 2 * MARGIN + self.columns * (WIDTH + ACROSS) - ACROSS
        return width, self.bottoms[-1] + MARGIN if self.bottoms else 2 * MARGIN

    def corner(self, place: Place) -> Point:
        row, column = divmod(place[0], self.columns)
        return MARGIN + column * (WIDTH + ACROSS), self.tops[row] + self.slots[row][place[1]]

    def left(self, place: Place) -> Point:
        """Return where an edge enters a place."""
        row, slot = place[0] // self.columns, place[1]
        top, bottom = self.slots[row][slot], self.slots[row][slot + 1] - BESIDE
        return self.corner(place)[0], self.tops[row] + (top + bottom) / 2

    def route(self, edge: Edge) -> tuple[str, Point]:
        places = self.stops(edge)
        lefts = list(map(self.left, places))
        path = [f"M{_at(lefts[0][0] + WIDTH, lefts[0][1])}"]
        for (rank, _), (x, y), (to_x, to_y) in zip(places, lefts, lefts[1:], strict=False):
            if (rank + 1) % self.columns:
                middle = (x + WIDTH + to_x) / 2
                path.append(f"C{_at(middle, y)} {_at(middle, to_y)} {_at(to_x, to_y)}")
            else:
                path.append(self._turn(rank // self.columns, edge.source, x + WIDTH) + f"V{to_y:g}H{to_x:g}")
            if (to_x, to_y) != lefts[-1]:
                path.append(f"h{self.node:g}")
        return "".join(path), lefts[-1]

    def _turn(self, row: int, source: str, x: float) -> str:
        """Run from the right end of a row, below it, to the left margin."""
        out = 7 + 3 * (self.tracks[row, source] % 4)
        return f"H{x + out:g}V{self._below(row, source):g}H{MARGIN - out:g}"

    def _below(self, row: int, source: str) -> float:
        return self.bottoms[row] + TRACK * (self.tracks[row, source] + 1) - 6

    def label(self, name: str) -> Point:
        rank, slot = self.plan.nodes[name]
        x, y = self.corner((rank, slot))
        if (rank + 1) % self.columns:
            return x + WIDTH + ACROSS / 2, y + HEIGHT / 2
        return x + WIDTH / 2, self._below(rank // self.columns, name)


def family(kind: str) -> str:
    """Return the group of kinds that a node is coloured by: compute, function, format-change, end, module, or other."""
    name = kind.partition(" ")[0]
    return OPS[name].family if name in OPS else ENDS.get(name, "other")


def _free(ranks: Iterable[int], taken: set[Place], first: int) -> int:
    """Return ``first`` if that slot is free in all ranks, else the lowest that is."""
    wanted = tuple(ranks)
    return next(slot for slot in chain((first,), count()) if all((rank, slot) not in taken for rank in wanted))


def _at(x: float, y: float) -> str:
    return f"{x:g} {y:g}"
