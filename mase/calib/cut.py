"""A model as parts: what comes before its repeated blocks, the blocks, and what comes after (docs/ptq.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from mase import interpreter
from mase.formats import QuantParams
from mase.graph import META, Graph, NodeGraph, OpNode, Record
from mase.graphfile import NONE
from mase.ops.base import OPS

BEFORE, AFTER = "prologue", "epilogue"
LEAST = 2  # nodes with weights of a block: a lone layer in a list is not one
Env = dict[str, Tensor]  # edges of the whole graph that are still needed, by name


@dataclass(frozen=True, eq=False)
class Part:
    """Hold a part of a graph as a graph of its own, with the same names, paths and keys.

    Args:
        name: ``prologue``, ``epilogue``, or the path of the block, such as ``model.layers.3``.
        graph: its inputs are the edges that come in, its outputs those that others need, the main one first.
        takes, gives: names of these edges in the whole graph.
    """

    name: str
    graph: Graph
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    def inputs(self, env: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what the part takes of the edges of the whole graph."""
        return tuple(env[name] for name in self.takes)

    def run(self, env: Mapping[str, Tensor]) -> Env:
        """Return what the part gives, by name."""
        values, ends = interpreter.run(self.graph, self.inputs(env)), self.graph.output.inputs
        return {name: values.real(node.name) for name, node in zip(self.gives, ends, strict=True)}

    def on(self, graph: Graph) -> Part:
        """Return the part with another graph of the same nodes."""
        return replace(self, graph=graph)


@dataclass(frozen=True, eq=False)
class Cut:
    """Hold a model in parts, in the order in which they run.

    Args:
        graph: that was cut. parts: prologue (where there is something before the blocks), blocks, epilogue.
    """

    graph: Graph
    parts: tuple[Part, ...]

    @property
    def blocks(self) -> tuple[Part, ...]:
        """The repeated blocks."""
        return tuple(part for part in self.parts if part.name not in (BEFORE, AFTER))

    def needed(self) -> Iterator[tuple[Part, frozenset[str]]]:
        """Iterate over the parts, each with the edges that later parts still take."""
        later = [frozenset(name for part in self.parts[i + 1 :] for name in part.takes) for i in range(len(self.parts))]
        return zip(self.parts, later, strict=True)

    def fields(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the parts one after the other, and return every output of the whole graph by name."""
        env: Env = dict(zip((node.name for node in self.graph.inputs), inputs, strict=True))
        for part, later in self.needed():
            env = {**env, **part.run(env)}
            if part is not self.parts[-1]:
                env = kept_edges(env, later)
        names = self.graph.output.record.attrs.get("fields", ["output"])
        return {name: env[node.name] for name, node in zip(names, self.graph.output.inputs, strict=True)}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the first output of the whole graph."""
        return next(iter(self.fields(*inputs).values()))


def kept_edges(env: Mapping[str, Tensor], later: frozenset[str]) -> Env:
    """Return the values of edges that later parts still take."""
    return {name: x for name, x in env.items() if name in later}


def cut(graph: Graph) -> Cut:
    """Cut a graph into what comes before its repeated blocks, the blocks, and what comes after.

    Blocks are found by structure: of all patterns of paths with a number at their end, such as ``model.layers.*``,
    whose instances run one after the other and are alike at least twice, the one that has the most nodes with weights.
    A graph without repeated blocks is one block.
    """
    free = _free(graph)
    blocks = _blocks(graph, free)
    count = len(blocks)
    parts = _assign(graph, free, blocks)
    made = [
        _part(graph, free, parts, number, name)
        for number, name in zip(range(-1, count + 1), (BEFORE, *blocks, AFTER), strict=True)
    ]
    return Cut(graph, tuple(part for part in made if part is not None))


# -- where blocks are --------------------------------------------------------------------------------------------------


def _free(graph: Graph) -> set[str]:
    """Return the nodes that depend on no input: each part has those that it needs."""
    free: set[str] = set()
    for node in graph.nodes():
        if node.kind not in ("input", "output") and all(p.name in free for p in node.inputs):
            free.add(node.name)
    return free


def prefixes(path: str) -> list[tuple[str, str]]:
    """Return ``(pattern, instance)`` for each number in a path, such as ``("model.layers.*", "model.layers.3")``."""
    names, out = path.split("."), []
    for i, name in enumerate(names):
        if name.isdecimal():
            pattern = ".".join("*" if part.isdecimal() else part for part in names[: i + 1])
            out.append((pattern, ".".join(names[: i + 1])))
    return out


def _blocks(graph: Graph, free: set[str]) -> dict[str, list[OpNode]]:
    """Return the nodes of each block by its path, in the order in which the blocks run; none where there is none."""
    found: dict[str, dict[str, list[OpNode]]] = {}
    for node in graph.operators():
        if node.name not in free:
            for pattern, instance in prefixes(node.path):
                found.setdefault(pattern, {}).setdefault(instance, []).append(node)
    good = [blocks for blocks in found.values() if _alike(blocks) and _in_order(graph, blocks)]
    weighted = [(sum(_weighted(n) for nodes in blocks.values() for n in nodes), -len(blocks)) for blocks in good]
    if not good:
        whole = [node for node in graph.operators() if node.name not in free]
        return {"model": whole} if whole else {}
    return good[weighted.index(max(weighted))]


def _weighted(node: OpNode) -> bool:
    """Tell whether a node has weights of its own."""
    return bool(node.kind in OPS and OPS[node.kind].weights and node.record.operands)


def _alike(blocks: Mapping[str, list[OpNode]]) -> bool:
    """Tell whether at least two blocks are made of the same kinds of nodes in the same order, weights among them."""
    kinds = [tuple(n.kind for n in nodes) for nodes in blocks.values() if sum(map(_weighted, nodes)) >= LEAST]
    return len(set(kinds)) < len(kinds)


def _in_order(graph: Graph, blocks: Mapping[str, list[OpNode]]) -> bool:
    """Tell whether no block needs what a later one gives."""
    own = {node.name: i for i, nodes in enumerate(blocks.values()) for node in nodes}
    least: dict[str, int] = {}
    for node in graph.nodes():
        before = max((least[p.name] for p in node.inputs), default=-1)
        least[node.name] = own.get(node.name, before)
        if before > least[node.name]:
            return False
    return True


def _assign(graph: Graph, free: set[str], blocks: Mapping[str, list[OpNode]]) -> dict[str, int]:
    """Return the part of each node that is not free: -1 before the blocks, and as many as there are blocks after them.

    What lies between two blocks belongs to the later one.
    """
    own = {node.name: i for i, nodes in enumerate(blocks.values()) for node in nodes}
    after, least, parts = len(blocks), dict[str, int](), dict[str, int]()
    nodes = [node for node in graph.nodes() if node.name not in free]
    for node in nodes:
        before = max((least[p.name] for p in node.inputs if p.name not in free), default=-1)
        least[node.name] = max(before, own.get(node.name, -1))
    for node in reversed(nodes):
        users = [parts[user.name] for user in node.users]
        if node.kind == "output":
            parts[node.name] = after
        elif node.name in own:
            parts[node.name] = own[node.name]
        else:
            parts[node.name] = -1 if least[node.name] < 0 else min(users, default=least[node.name])
    return parts


# -- graphs of parts ---------------------------------------------------------------------------------------------------


def _part(graph: Graph, free: set[str], parts: Mapping[str, int], number: int, name: str) -> Part | None:
    """Build one part; None where it computes nothing that another part or the output needs."""
    inside, takes = _reach(graph, free, parts, number)
    last = number == max(parts.values())
    needed = {
        taken for other in range(number + 1, max(parts.values()) + 1) for taken in _reach(graph, free, parts, other)[1]
    }
    gives = [node.name for node in graph.nodes() if parts.get(node.name) == number and node.name in needed]
    gives = [name for name in reversed(gives) if graph.node(name).kind != "input"]
    if last:
        gives = list(dict.fromkeys(node.name for node in graph.output.inputs))
    if not gives:
        return None
    return build(graph, name, [n for n in inside if n.kind != "output"], takes, gives)


def _reach(graph: Graph, free: set[str], parts: Mapping[str, int], number: int) -> tuple[list[OpNode], list[str]]:
    """Return the nodes of a part, with copies of what is free or is not a tensor, and the edges that come in."""
    own = [node for node in graph.nodes() if parts.get(node.name) == number and node.kind != "input"]
    wanted, takes, todo = {node.name for node in own}, dict[str, None](), list(own)
    while todo:
        for producer in todo.pop().inputs:
            if producer.name in wanted or producer.name in takes:
                continue
            if producer.name in free or producer.record.output.dtype == NONE:
                wanted.add(producer.name)
                todo.append(producer)
            else:
                takes[producer.name] = None
    nodes = list(graph.nodes())
    return [n for n in nodes if n.name in wanted], [n.name for n in nodes if n.name in takes]


def build(graph: Graph, name: str, nodes: Sequence[OpNode], takes: Sequence[str], gives: Sequence[str]) -> Part:
    """Return a part of the given nodes, in order.

    Args:
        takes: edges that come in. gives: edges that go out.
    """
    new, env = fx.Graph(), dict[str, fx.Node]()
    for taken in takes:
        env[taken] = _named(new.placeholder(taken), taken, _input(graph.node(taken)))
    for node in nodes:
        copied = new.node_copy(node.node, lambda n: env[n.name])
        env[node.name] = _named(copied, node.name, node.record)
    output = graph.output.record
    kinds = [graph.node(given).record.output for given in gives]
    record = Record("output", output.path, kinds[0], {"fields": list(gives)})
    _named(new.output(tuple(env[given] for given in gives)), "output", record)
    bodies = {n.name: graph.bodies[n.name] for n in nodes if n.name in graph.bodies}
    edges = {*takes, *(n.name for n in nodes)}
    keys = _keys(graph, nodes)
    quant = {key: params for key, params in graph.quant.items() if key in edges or key in keys}
    module = NodeGraph(graph.module if any(n.node.op == "call_module" for n in nodes) else nn.Module(), new)
    tensors = {key: graph.tensors[key] for key in sorted(keys)}
    return Part(name, Graph(module, tensors, quant, bodies=bodies), tuple(takes), tuple(gives))


def _named(node: fx.Node, name: str, record: Record) -> fx.Node:
    node.name, node.meta = name, {META: record}
    return node


def _input(node: OpNode) -> Record:
    """Return the record of an edge that comes in: every axis is free, for the edge says what it is."""
    if node.kind == "input":
        return node.record
    axes = [f"{node.name}_{i}" for i in range(len(node.record.output.shape))]
    return Record("input", node.path, node.record.output, {"axes": axes, "argument": node.name})


def _keys(graph: Graph, nodes: Sequence[OpNode]) -> set[str]:
    """Return the tensors that nodes and their bodies read."""
    keys = {node.record.key(role) for node in nodes for role in node.record.operands}
    for node in nodes:
        target = str(node.node.target)
        if node.node.op == "get_attr":
            keys.add(target)
        elif node.node.op == "call_module":
            keys |= {key for key in graph.tensors if key.startswith(f"{target}.")}
        if body := graph.bodies.get(node.name):
            keys |= _keys(body, list(body.nodes()))
    return keys & graph.tensors.keys()


def joined(parts: Sequence[Part], inputs: Sequence[OpNode], output: Record, gives: Sequence[str]) -> Graph:
    """Return one graph of parts whose nodes have names of their own; nodes that several parts have are there once.

    Args:
        inputs: of the whole graph. output: record of its output. gives: the edges that are its outputs.
    """
    new, env = fx.Graph(), dict[str, fx.Node]()
    tensors, quant, bodies = dict[str, Tensor](), dict[str, QuantParams](), dict[str, Graph]()
    for node in inputs:
        env[node.name] = _named(new.placeholder(node.name), node.name, node.record)
    for part in parts:
        for node in part.graph.operators():
            if node.name not in env:
                env[node.name] = _named(new.node_copy(node.node, lambda n: env[n.name]), node.name, node.record)
        tensors |= part.graph.tensors
        quant |= part.graph.quant
        bodies |= part.graph.bodies
    ends = tuple(env[name] for name in gives)
    _named(new.output(ends if "fields" in output.attrs else ends[0]), "output", output)
    modules = [p.graph.module for p in parts if any(n.op == "call_module" for n in p.graph.module.graph.nodes)]
    return Graph(NodeGraph(modules[0] if modules else nn.Module(), new), tensors, quant, bodies=bodies)
