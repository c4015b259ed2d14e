"""Large graphs by module: what is too much for one picture becomes a picture a module, each of which can be opened.

A module stands for a run of nodes that follow each other in order of execution and lie below one module path; where
other nodes come between, it stands twice. So no picture has a circle. A node without a module of its own, such as a
residual add, counts to the module that the nodes before and after it share.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby, takewhile

from mase.report.dataflow import Picture, Remark, tall, wide
from mase.report.summary import Dataflow, Edge, Layer, Node
from mase.report.text import compact

AT_LEAST = "\N{GREATER-THAN OR EQUAL TO} "
WHOLE = 40  # nodes that one picture shows without modules
Scope = tuple[str, ...]  # parts of a module path
Places = Mapping[str, Scope]  # scope of each node, by name


@dataclass(frozen=True)
class Facts:
    """What is known of a node, or of all nodes of a module.

    Args:
        macs: multiply-accumulates a sample. parameters: elements. unknown: nodes whose operations nobody can count.
    """

    macs: int = 0
    parameters: int = 0
    unknown: int = 0

    def __add__(self, more: Facts) -> Facts:
        return Facts(self.macs + more.macs, self.parameters + more.parameters, self.unknown + more.unknown)

    @property
    def lines(self) -> tuple[str, ...]:
        """Say it in few lines, what is zero left out."""
        lines = []
        if self.macs:
            lines.append(f"{AT_LEAST if self.unknown else ''}{compact(self.macs, 1e4)} MACs")
        elif self.unknown:
            lines.append("? MACs")
        if self.parameters:
            lines.append(f"{compact(self.parameters, 1e4)} parameters")
        return tuple(lines)


@dataclass(frozen=True)
class Module:
    """A module to be drawn.

    Args:
        path: of the module, empty for the whole model; a second run of the same module says so. anchor: id in a page.
        nodes: how many it stands for. inside: the modules in it.
        flow: its picture: nodes, modules in it (named by their anchors), ends of edges that come from or lead outside.
        start: of the paths of all that is in it, which its picture leaves out.
        like: anchor of an earlier module that looks the same, empty where there is none. others: paths of later ones.
        remarks: what the boxes of the picture say, by name.
    """

    path: str
    anchor: str
    nodes: int
    facts: Facts
    flow: Dataflow
    inside: tuple[Module, ...]
    like: str = ""
    others: tuple[str, ...] = ()
    start: str = ""
    remarks: Mapping[str, Remark] = field(default_factory=dict)


def drawn(graph: Dataflow, facts: Mapping[str, Facts] | None = None) -> Module:
    """Return what to draw: the graph as one picture where that is small enough, else folded."""
    if len(graph.nodes) > WHOLE:
        return fold(graph, facts)
    known = facts or {}
    remarks = {name: Remark(own.lines) for name, own in known.items()}
    return Module("", "m", len(graph.nodes), sum(known.values(), Facts()), graph, (), remarks=remarks)


def fold(graph: Dataflow, facts: Mapping[str, Facts] | None = None) -> Module:
    """Return the whole graph as nested modules; ``facts`` by name of node."""
    nodes, places = placed(graph)
    return _Folder(places, dict(facts or {})).module((), nodes, graph.edges, "m", "")


def pictures(module: Module, layers: Sequence[Layer] = ()) -> Iterator[Picture]:
    """Yield the picture of a module for a wide page and for a narrow one; ``layers`` are told by their path."""
    yield wide(module.flow, layers, remarks=module.remarks, start=module.start)
    yield tall(module.flow, layers, remarks=module.remarks, start=module.start)


def collapsed(graph: Dataflow, most: int) -> Dataflow:
    """Return one picture of at most ``most`` nodes if modules allow it: those below some depth become one node each."""
    nodes, places = placed(graph)
    found = graph
    for depth in range(max((len(scope) for scope in places.values()), default=0), 0, -1):
        if len(found.nodes) <= most:
            break
        found = _at_depth(graph, nodes, places, depth)
    return found


def placed(graph: Dataflow) -> tuple[list[Node], dict[str, Scope]]:
    """Return the nodes in order of execution, and the module of each by name.

    A node that reads nothing, such as a constant, lies where all its readers do, right before them.
    """
    reading, readers = {edge.target for edge in graph.edges}, defaultdict[str, list[str]](list)
    for edge in graph.edges:
        readers[edge.source].append(edge.target)
    constants = [n for n in graph.nodes if n.name not in reading and n.name in readers and n.kind != "input"]
    moved = {node.name for node in constants}
    rest = [node for node in graph.nodes if node.name not in moved]
    places = scopes(rest)
    first = dict[Scope, int]()  # place of the first node of a module
    for i, node in enumerate(rest):
        for depth in range(1 + len(places[node.name])):
            first.setdefault(places[node.name][:depth], i)
    index = {node.name: i for i, node in enumerate(rest)}
    before = defaultdict[int, list[Node]](list)
    for node in constants:
        reader = min(readers[node.name], key=index.__getitem__)
        places[node.name] = reduce(_common, (places[name] for name in readers[node.name]))
        inner = places[reader][: len(places[node.name]) + 1]
        before[index[reader] if inner == places[node.name] else first[inner]].append(node)
    return [node for i, own in enumerate(rest) for node in (*before[i], own)], places


def scopes(nodes: Sequence[Node]) -> dict[str, Scope]:
    """Return the module that each node lies in; one that has none lies where its neighbours both do."""
    own = [tuple(node.path.split(".")[:-1]) if node.path != node.name else None for node in nodes]
    found = {}
    for node, scope, left, right in zip(nodes, own, _last(own), reversed(_last(own[::-1])), strict=True):
        nearest = _common(left, right) if scope is None else scope
        found[node.name] = () if node.kind in ("input", "output") else nearest
    return found


def _last(found: Sequence[Scope | None]) -> list[Scope]:
    """Return, at each place, the last one that is known; the whole model where there is none."""
    last: Scope = ()
    known = list[Scope]()
    for scope in found:
        last = last if scope is None else scope
        known.append(last)
    return known


def _common(a: Scope, b: Scope) -> Scope:
    return tuple(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _at_depth(graph: Dataflow, nodes: Sequence[Node], places: Places, depth: int) -> Dataflow:
    found, owner = list[Node](), dict[str, str]()
    for scope, run in groupby(nodes, lambda node: places[node.name][:depth]):
        members = list(run)
        if len(scope) < depth or len(members) == 1:
            found += members
            owner |= {node.name: node.name for node in members}
        else:
            name = f"m{len(found)}"
            found.append(Node(name, ".".join(scope), f"module of {len(members):,}"))
            owner |= {node.name: name for node in members}
    return Dataflow(tuple(found), tuple(_joined(graph.edges, owner)))


def _joined(edges: Iterable[Edge], owner: Mapping[str, str]) -> Iterator[Edge]:
    """Yield the edges between different owners, each once."""
    seen = dict.fromkeys(Edge(owner[e.source], owner[e.target], e.shape, e.format) for e in edges)
    return (edge for edge in seen if edge.source != edge.target)


class _Folder:
    """Make modules of modules.

    Args:
        places: scope of each node. facts: of each node.
    """

    def __init__(self, places: Places, facts: Mapping[str, Facts]) -> None:
        self.places, self.facts = places, facts

    def module(self, scope: Scope, nodes: Sequence[Node], edges: Sequence[Edge], anchor: str, path: str) -> Module:
        """Return a module; ``edges`` are those with an end in it."""
        runs = [list(run) for _, run in groupby(nodes, lambda node: self._part(node, len(scope)))]
        number = {node.name: i for i, run in enumerate(runs) for node in run}
        touching: list[list[Edge]] = [[] for _ in runs]
        for edge in edges:
            for i in {number[name] for name in (edge.source, edge.target) if name in number}:
                touching[i].append(edge)
        items, inside, looks = list[Node](), list[Module](), list[object]()
        owner, seen = dict[str, str](), Counter[str]()
        for run, own in zip(runs, touching, strict=True):
            if len(run) == 1:
                items += run
                owner[run[0].name] = run[0].name
                continue
            child = self._child(run, own, f"{anchor}-{len(inside)}", seen)
            inside.append(child)
            looks.append(_look(child, run, own))
            items.append(Node(child.anchor, child.path, f"module of {child.nodes:,}"))
            owner |= {node.name: child.anchor for node in run}
        total = sum((self.facts.get(node.name, Facts()) for node in nodes), Facts())
        alike = _alike(inside, looks)
        remarks = {node.name: Remark(self.facts[node.name].lines) for node in items if node.name in self.facts}
        remarks |= {child.anchor: Remark(child.facts.lines, child.like or child.anchor) for child in alike}
        flow, start = _with_ends(items, edges, owner), ".".join(scope) + "."
        return Module(path, anchor, len(nodes), total, flow, tuple(alike), start=start, remarks=remarks)

    def _part(self, node: Node, depth: int) -> Scope | str:
        """Return the module inside one of ``depth`` that a node lies in, or the node's name where it lies in none."""
        scope = self.places[node.name]
        return scope[: depth + 1] if len(scope) > depth else node.name

    def _child(self, nodes: Sequence[Node], edges: Sequence[Edge], anchor: str, seen: Counter[str]) -> Module:
        """Return the module of a run; one that holds a single module alone is passed by."""
        scope = reduce(_common, (self.places[node.name] for node in nodes))
        path = ".".join(scope)
        seen[path] += 1
        return self.module(scope, nodes, edges, anchor, path + (f" ({seen[path]})" if seen[path] > 1 else ""))


def _with_ends(items: Sequence[Node], edges: Sequence[Edge], owner: Mapping[str, str]) -> Dataflow:
    """Draw the edges between items, and for each tensor that comes from or goes outside an end."""
    comes, goes = dict[str, Node](), dict[str, Node]()
    ends = dict(owner)
    for edge in edges:
        if edge.source not in owner:
            comes.setdefault(edge.source, Node(f"from {edge.source}", edge.source, "input"))
            ends[edge.source] = f"from {edge.source}"
        if edge.target not in owner:
            goes.setdefault(edge.source, Node(f"to {edge.source}", edge.target, "output"))
    inner = [edge for edge in edges if edge.target in owner]
    outer = [Edge(owner[e.source], f"to {e.source}", e.shape, e.format) for e in edges if e.target not in owner]
    drawn = dict.fromkeys([*_joined(inner, ends), *outer])
    return Dataflow((*comes.values(), *items, *goes.values()), tuple(drawn))


def _alike(modules: Sequence[Module], looks: Sequence[object]) -> list[Module]:
    """Say of each module whether an earlier one beside it looks the same, and of that one which do."""
    groups = defaultdict[object, list[Module]](list)
    for module, look in zip(modules, looks, strict=True):
        groups[look].append(module)
    found = {}
    for first, *rest in groups.values():
        found[first.anchor] = replace(first, others=tuple(module.path for module in rest))
        found |= {module.anchor: replace(module, like=first.anchor) for module in rest}
    return [found[module.anchor] for module in modules]


def _look(module: Module, nodes: Sequence[Node], edges: Sequence[Edge]) -> object:
    """Return what two modules share that differ in nothing but their names."""
    number = {node.name: i for i, node in enumerate(nodes)}
    skip = len(module.path.partition(" ")[0])
    kinds = tuple((re.sub(r"_\d+$", "", n.path[skip:] if n.path != n.name else n.name), n.kind) for n in nodes)
    inner = tuple(
        (number[e.source], number[e.target], e.shape, e.format)
        for e in edges
        if e.source in number and e.target in number
    )
    return kinds, inner, module.facts
