"""The lanes that are chosen are the cheapest there are: compared with every combination, priced block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, pairwise, product
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mase.blocks.fork import ForkFoldings
from mase.cost.device import device
from mase.cost.estimate import estimate_graph
from mase.cost.folding import Folded, Wiring, fold, priced
from mase.cost.resources import Resources, estimate
from mase.dataflow.block import Block
from mase.dataflow.stream import StreamType
from mase.dataflow.width_converter import ConverterFoldings, WidthConverter
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, pairs, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats.grid import Grid
from mase.graph import Graph, HwRecord, OpNode
from mase.lowering import Lowering
from mase.netlist import Netlist, build
from mase.ops.base import Arithmetic
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats
from tests.emit.designs import Network

XCUP = device("xcup")


def chain(layers: Sequence[nn.Module], shape: tuple[int, ...], formats: Sequence[str], fused: bool = True) -> Graph:
    """Return a quantized chain; ``formats`` of the input, then of weight and result of each operator, over again."""
    torch.manual_seed(0)
    network = Network("chain", layers, torch.randn(8, *shape), formats[0], {}, fused=fused)
    given, left = {}, iter(list(formats[1:]) * 4)
    for node in network.traced().operators():
        if node.kind != "layout":
            given[node.path] = NodeFormats(next(left) if node.kind == "linear" else None, output=next(left))
    return Network("chain", layers, torch.randn(8, *shape), formats[0], given, fused=fused).quantized()


def parts(graph: Graph) -> tuple[list[OpNode], list[Arithmetic]]:
    lowered, names = Lowering().of(graph), build(graph).nodes
    nodes = [graph.node(name) for name in names]
    return nodes, [lowered.op(node) for node in nodes]


Priced = tuple[float, int]  # LUT-equivalents, cycles a sample


def price(*blocks: Block) -> Priced:
    resources = sum((estimate(block, XCUP).resources for block in blocks), Resources())
    return resources.equivalent(XCUP), max((block.schedule().interval() for block in blocks), default=0)


def cheapest(ops: Sequence[Arithmetic], limit: int | None) -> float | None:
    """Return the least cost of all combinations of foldings, block by block; None where none keeps the limit."""

    @cache
    def operator(i: int, simd: int, pe: int) -> tuple[Priced, StreamType, StreamType]:
        blocks = list(ops[i].circuit(simd, pe, depths(ops[i], simd, pe)).blocks.values())
        return price(*blocks), blocks[0].stream_in, blocks[-1].stream_out

    @cache
    def between(i: int, j: int, stream: StreamType, target: StreamType) -> Priced:
        found = [one for op in ops[i + 1 : j] for one in op.circuit(stream.lanes, target.lanes, {}).blocks.values()]
        if found or j > i + 1:  # the first reshape changes the lanes, what follows keeps them
            found = [
                one for op in ops[i + 1 : i + 2] for one in op.circuit(stream.lanes, target.lanes, {}).blocks.values()
            ]
            found += [
                one for op in ops[i + 2 : j] for one in op.circuit(target.lanes, target.lanes, {}).blocks.values()
            ]
            return price(*found)
        return price() if stream == target else price(WidthConverter(stream, target))

    places = [i for i, op in enumerate(ops) if not op.foldings.follows]
    options = [list(zip(*(x.tolist() for x in ops[i].foldings.lanes()), strict=True)) for i in places]
    best = None
    for lanes in product(*options):
        made = [operator(i, *pair) for i, pair in zip(places, lanes, strict=True)]
        links = [between(i, j, a[2], b[1]) for (i, a), (j, b) in pairwise(zip(places, made, strict=True))]
        tail = between(places[-1], len(ops), made[-1][2], made[-1][2])
        every = [*(one[0] for one in made), *links, tail]
        if limit is None or max(cycles for _, cycles in every) <= limit:
            cost = sum(cost for cost, _ in every)
            best = cost if best is None else min(best, cost)
    return best


def depths(op: Arithmetic, simd: int, pe: int) -> dict[str, int]:
    fifos = {} if op.foldings.follows else op.foldings.fifos(np.array([simd]), np.array([pe]))
    return {role: int(np.max(depth)) for role, depth in fifos.items()}


def laid(graph: Graph, nodes: Sequence[OpNode], ops: Sequence[Arithmetic], lanes: Sequence[tuple[int, int]]) -> Netlist:
    """Return the netlist with the FIFO depths that the search prices."""
    records = {
        node.name: replace(node.record, hw=HwRecord({"simd": simd, "pe": pe}, depths(op, simd, pe)))
        for node, op, (simd, pe) in zip(nodes, ops, lanes, strict=True)
    }
    return build(graph.replace(records))


def small_chains() -> Iterator[tuple[Graph, int | None]]:
    """Yield chains of 2 or 3 small layers with ReLUs, reshapes and rows, in all classes of formats."""
    rng = Random(11)
    formats = ("fixed5", "int4", "mxint4b2e3", "fixed7", "mxint5b4e2")
    while True:
        rows, size, fused = rng.choice((0, 0, 2)), rng.choice((2, 3, 4, 5, 6)), rng.random() < 0.8
        shape, axis = (rows, size) if rows else (size,), 2 if rows else 1
        layers: list[nn.Module] = []
        for k in range(rng.choice((2, 2, 3))):
            tiles = k == 0 and rng.random() < 0.4
            before, size = size, rng.choice((4, 8)) if tiles else rng.choice((2, 3, 4, 5, 6))
            layers += [nn.Linear(before, size), *(nn.ReLU() for _ in range(rng.random() < 0.4))]
            layers += [nn.Unflatten(axis, (size // 4, 4)), nn.Flatten(axis)] if tiles else []
        layers += [nn.Unflatten(axis, (1, size))] if rng.random() < 0.2 else []
        chosen = [rng.choice(formats) for _ in range(9)]
        try:
            graph = chain(layers, shape, chosen, fused)
            build(graph)
        except UnsupportedOp:
            continue
        yield graph, rng.choice((None, 1, 4, 7, 12, 30))


def test_no_combination_of_foldings_is_cheaper() -> None:
    tried = refused = converted = followers = 0
    for graph, limit in islice(small_chains(), 30):
        nodes, ops = parts(graph)
        if math.prod(op.foldings.lanes()[0].size for op in ops if not op.foldings.follows) > 8000:
            continue
        best = cheapest(ops, limit)
        if best is None:
            with pytest.raises(UnsupportedOp, match=rf"cycles a sample.*; map.interval allows {limit}"):
                fold(nodes, ops, "xcup", limit)
            refused += 1
            continue
        found = fold(nodes, ops, "xcup", limit)
        netlist = laid(graph, nodes, ops, found.lanes)
        assert found.cost == pytest.approx(best, rel=1e-12)  # sums of floats in another order
        assert found.cost == pytest.approx(price(*(i.block for i in netlist.instances))[0], rel=1e-12)
        assert found.interval == netlist.interval()
        tried += 1
        converted += any(isinstance(i.block, WidthConverter) for i in netlist.instances)
        followers += any(op.foldings.follows for op in ops)
    assert min(tried // 5, refused, converted, followers) >= 2, (tried, refused, converted, followers)


@dataclass(frozen=True)
class Drawn(Foldings):
    """Foldings of an operator that takes rows of ``inputs`` and gives rows of ``outputs``, with prices at random.

    Args:
        rows, inputs, outputs: sizes. same: input and output lanes are equal. seed: of the prices.
    """

    rows: int
    inputs: int
    outputs: int
    same: bool
    seed: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        if self.same:
            return tile_lanes(self.inputs), tile_lanes(self.inputs)
        return pairs(tile_lanes(self.inputs), tile_lanes(self.outputs))

    def cycles(self, simd: Count, pe: Count) -> Count:
        beats = ceil_div(self.inputs, simd)
        return self.rows * (beats if self.same else beats * ceil_div(self.outputs, pe))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": 2}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        noise = (simd * 7919 + pe * 104729 + self.seed * 1299709) % 61
        return {"": Work(registers=simd * pe * 8, adders=((noise, 9),), fifos=((pe * 6, fifos[""]),))}


GRID = Grid(6, True, -32, 31)


class Fake:
    """What the search asks of an operator."""

    def __init__(self, foldings: Foldings, takes: Sequence[tuple[int, int]], gives: tuple[int, int]) -> None:
        self.foldings = foldings
        self.takes = [StreamType(*shape, 1, GRID) for shape in takes]
        self.gives = [StreamType(*gives, 1, GRID)]


class FakeNode:
    """What the search asks of a node."""

    def __init__(self, place: int) -> None:
        self.path = str(place)

    def where(self) -> str:
        return f"node {self.path!r}"


@dataclass(frozen=True, eq=False)
class Net:
    """A graph of fake operators."""

    ops: list[Fake]
    wiring: Wiring

    def fold(self, limit: int | None) -> Folded:
        nodes: Any = [FakeNode(place) for place in range(len(self.ops))]
        ops: Any = self.ops
        return fold(nodes, ops, "xcup", limit, None, self.wiring)


def drawn_net(rng: Random, size: int) -> Net:
    """Return operators with one input or two (maybe twice the same) and reshapes, on one or two entries."""
    rows, cols = 2, rng.choice((3, 4, 6))
    shapes = {~0: (rows, cols)} | ({~1: (rows, cols)} if rng.random() < 0.3 else {})
    ops: list[Fake] = []
    producers: list[tuple[int, ...]] = []
    for place in range(size):
        fresh = [t for t in shapes if not any(t in sources for sources in producers)]
        first = rng.choice(fresh if fresh and rng.random() < 0.6 else list(shapes))
        before = shapes[first]
        twins = [t for t in shapes if shapes[t] == before]
        kind = rng.random()
        if kind < 0.25:
            after = (1, math.prod(before)) if before[0] == rows else (rows, math.prod(before) // rows)
            ops.append(Fake(ConverterFoldings(before, after, GRID.width, 0, 0), [before], after))
            producers.append((first,))
        elif kind < 0.65:
            after = before
            ops.append(Fake(Drawn(*before, before[1], True, rng.randrange(99)), [before, before], after))
            producers.append((first, rng.choice(twins)))
        else:
            after = (before[0], rng.choice((2, 3, 4)) if before[0] == rows else before[1])
            ops.append(Fake(Drawn(*before, after[1], False, rng.randrange(99)), [before], after))
            producers.append((first,))
        shapes[place] = after
    used = {source for sources in producers for source in sources}
    leave = [place for place in range(size) if place not in used or rng.random() < 0.1]
    return Net(ops, Wiring(tuple(producers), tuple(leave)))


class Trial:
    """One choice of lanes of a net, priced wire by wire."""

    def __init__(self, net: Net, chosen: Mapping[int, tuple[int, int]]) -> None:
        self.net, self.chosen, self.producers = net, chosen, net.wiring.producers
        self.users: dict[int, list[int]] = {}  # of each tensor, by place, -1 the outside
        for place, sources in enumerate(self.producers):
            for source in sources:
                self.users.setdefault(source, []).append(place)
        for place in net.wiring.outputs:
            self.users.setdefault(place, []).append(-1)

    def lanes(self, tensor: int) -> int:
        """Return the lanes at which a tensor leaves its producer."""
        if tensor in self.chosen:
            return self.chosen[tensor][1]
        if tensor < 0:
            return next(simd for place, (simd, _) in self.chosen.items() if tensor in self.roots(place))
        end = tensor
        while end not in self.chosen and len(self.users[end]) == 1 and self.users[end][0] >= 0:
            end = self.users[end][0]
        return self.chosen[end][0] if end in self.chosen else self.lanes(self.producers[tensor][0])

    def roots(self, place: int) -> list[int]:
        """Return what the inputs of a node come from, reshapes aside."""
        found = []
        for source in self.producers[place]:
            while source >= 0 and source not in self.chosen:
                source = self.producers[source][0]
            found.append(source)
        return found

    def price(self) -> Priced:
        every = []
        for place, op in enumerate(self.net.ops):
            ins = [self.lanes(source) for source in self.producers[place]]
            simd, pe = self.chosen.get(place, (ins[0], self.lanes(place)))
            every.append(one(op.foldings, simd, pe))
            if place in self.chosen:
                for lanes, stream in zip(ins, op.takes, strict=True):
                    every += [one(ConverterFoldings.of(stream), lanes, simd)] * (lanes != simd)
        for tensor, users in self.users.items():
            stream = self.net.ops[tensor].gives[0] if tensor >= 0 else self.net.ops[users[0]].takes[0]
            every += [one(ForkFoldings.of(stream), self.lanes(tensor), self.lanes(tensor))] * (len(users) - 1)
        return sum(cost for cost, _ in every), max(cycles for _, cycles in every)


@cache
def one(foldings: Foldings, simd: int, pe: int) -> Priced:
    choice = priced(foldings, "xcup", simd, pe)
    return choice.cost, choice.cycles


def test_no_combination_is_cheaper_in_a_graph_that_branches() -> None:
    rng = Random(12)
    seen = dict.fromkeys(
        ("solved", "refused", "refused wires", "forks", "twice", "reshapes", "joins of reshapes", "two entries"), 0
    )
    for _ in range(120):
        net = drawn_net(rng, rng.randint(2, 6))
        own = {i: op.foldings.lanes() for i, op in enumerate(net.ops) if not op.foldings.follows}
        options = [list(zip(*(x.tolist() for x in lanes), strict=True)) for lanes in own.values()]
        if not own or math.prod(map(len, options)) > 400:
            continue
        trials = [Trial(net, dict(zip(own, lanes, strict=True))) for lanes in product(*options)]
        entries = {root for place in own for root in trials[0].roots(place) if root < 0}
        if entries != {t for t in trials[0].users if t < 0}:
            with pytest.raises(UnsupportedOp, match="no operator with lanes of its own"):
                net.fold(None)
            continue
        prices = [trial.price() for trial in trials]
        for limit in (None, 2, rng.choice((1, 2, 3, 4))):
            best = min((cost for cost, cycles in prices if limit is None or cycles <= limit), default=None)
            if best is None:
                with pytest.raises(UnsupportedOp, match=rf"cycles a sample.*; map.interval allows {limit}") as error:
                    net.fold(limit)
                words = str(error.value).split()
                assert int(words[words.index("cycles") - 1]) > limit
                seen["refused"] += 1
                seen["refused wires"] += "converter" in words
                continue
            found = net.fold(limit)
            assert found.exact
            assert found.cost == pytest.approx(best, rel=1e-12)  # sums of floats in another order
            again = Trial(net, {place: found.lanes[place] for place in own})
            assert again.price() == (pytest.approx(best, rel=1e-12), found.interval)
            for place, (simd, pe) in enumerate(found.lanes):
                assert pe == again.lanes(place)
                assert place in own or simd == again.lanes(net.wiring.producers[place][0])
            seen["solved"] += 1
            seen["forks"] += any(len(users) > 1 for users in again.users.values())
            seen["twice"] += any(len(set(sources)) < len(sources) for sources in net.wiring.producers)
            seen["reshapes"] += len(own) < len(net.ops)
            seen["joins of reshapes"] += any(
                len(sources) > 1 and any(s >= 0 and s not in own for s in sources) for sources in net.wiring.producers
            )
            seen["two entries"] += len(entries) > 1
    assert min(seen.values()) >= 3, seen


def test_the_price_of_a_converter_counts() -> None:
    """Each layer alone is cheapest at lanes that ask for a converter; together, other lanes are cheaper."""
    graph = chain([nn.Linear(96, 77), nn.ReLU(), nn.Linear(77, 10)], (96,), ["fixed8"] * 5)
    mapped, report = map_graph(graph, MapConfig(interval=4))
    other, by_hand = map_graph(graph, MapConfig(interval=4, folding={"0": Folding(24, 77), "2": Folding(77, 3)}))
    apart, dearer = map_graph(graph, MapConfig(interval=4, folding={"0": Folding(24, 77), "2": Folding(39, 5)}))
    assert list(dearer.converters) == ["_2.convert"]
    assert sum(choice.cost for choice in (*dearer.choices.values(), *dearer.converters.values())) == dearer.cost
    assert report.cost <= by_hand.cost < dearer.cost
    costs = [estimate_graph(one).lut_equivalents for one in (mapped, other, apart)]
    assert costs == sorted(costs)
    assert [build(one).interval() for one in (mapped, other, apart)] == [4, 4, 4]


def test_a_converter_takes_the_firings_that_it_promises() -> None:
    grids = Grid(5, True, -16, 15), Grid(5, True, -15, 15, 0, False, 4, 3, 0, 7)
    shapes = [((1, 12), (1, 12)), ((3, 5), (3, 5)), ((1, 1), (1, 1))]
    shapes += [((1, 12), (3, 4)), ((3, 4), (1, 12)), ((2, 12), (3, 8)), ((6, 5), (2, 15)), ((4, 8), (2, 16))]
    for (before, after), grid in product(shapes, grids):
        if grid.block and before != after and (before[1] % 4 or after[1] % 4):
            continue
        legal = [n for n in (1, 2, 3, 4, 5, 6, 8, 12, 13) if not grid.block or n % 4 == 0 or 4 % n == 0]
        foldings = ConverterFoldings.of(StreamType(*before, 1, grid), after)
        simd, pe = (x.ravel() for x in np.meshgrid(legal, legal))
        cycles, works = foldings.cycles(simd, pe), foldings.work(simd, pe, {"": 2})[""]
        for i, (a, b) in enumerate(zip(simd.tolist(), pe.tolist(), strict=True)):
            block = WidthConverter(StreamType(*before, a, grid), StreamType(*after, b, grid))
            if block.source == block.target:
                assert (cycles[i], priced(foldings, "xcup", a, b).cost) == (0, 0.0)
                continue
            assert cycles[i] == block.schedule().interval() == len(block.firings()), (before, after, a, b)
            assert block.work().registers == works.registers[i]
            one = estimate(block, XCUP).resources.equivalent(XCUP)
            assert priced(foldings, "xcup", a, b).cost == pytest.approx(one, rel=1e-12)
