"""Choose lanes for every operator and depths for every FIFO: the mapping to hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mase.cost.folding import Choice, choices
from mase.cost.resources import Resources
from mase.errors import ConfigError, UnsupportedOp, suggest
from mase.graph import Graph, HwRecord
from mase.netlist import Netlist, build, sized
from mase.ops.base import HardwareOp
from passes.base import graph_pass


@dataclass(frozen=True)
class Folding:
    """Lanes of one operator: ``simd`` inputs, ``pe`` outputs a cycle."""

    simd: int = 1
    pe: int = 1


@dataclass(frozen=True)
class MapConfig:
    """How to build.

    Args:
        interval: cycles a sample that every operator must keep; None means as cheap as possible.
        folding: glob of module paths -> lanes, fixed by hand; the first match wins.
        target: device whose costs decide between foldings.
    """

    interval: int | None = None
    folding: Mapping[str, Folding] = field(default_factory=dict)
    target: str = "xcup"


@dataclass(frozen=True)
class MapReport:
    """Lanes, cycles a sample and FIFO depths by node, and the operator that sets the pace."""

    choices: Mapping[str, Choice]
    fifos: Mapping[str, int]
    bottleneck: str


@graph_pass("map", MapConfig, requires=("formats",), provides=("hardware",))
def map_graph(graph: Graph, config: MapConfig) -> tuple[Graph, MapReport]:
    """Give every operator the cheapest lanes that keep the interval, then every FIFO its least depth."""
    return mapped(graph, config, {})


def mapped(graph: Graph, config: MapConfig, ops: dict[str, HardwareOp]) -> tuple[Graph, MapReport]:
    """Do the same with operators built before, by node name."""
    netlist = build(graph, ops)
    nodes = list(dict.fromkeys(instance.node for instance in netlist.instances))
    _check_globs(graph, config)
    chosen: dict[str, Choice] = {}
    for name in nodes:
        chosen[name] = _choose(netlist, name, config)
    _follow_layouts(netlist, nodes, chosen)
    records = {n: replace(graph.node(n).record, hw=HwRecord(c.simd, c.pe)) for n, c in chosen.items()}
    folded = graph.replace(records)
    laid = build(folded, ops)
    depths = sized(laid)
    final = {}
    for name in nodes:
        fifos = {i.role: depths[i.name] for i in laid.instances if i.node == name}
        final[name] = replace(folded.node(name).record, hw=HwRecord(chosen[name].simd, chosen[name].pe, fifos))
    slowest = max(laid.instances, key=lambda i: i.block.schedule().interval())
    return folded.replace(final), MapReport(chosen, depths, slowest.node)


def _check_globs(graph: Graph, config: MapConfig) -> None:
    paths = [node.path for node in graph.operators()]
    for glob in config.folding:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise ConfigError(f"map.folding {glob!r}: matches no node{suggest(glob, paths)}")


def _choose(netlist: Netlist, name: str, config: MapConfig) -> Choice:
    node, op = netlist.graph.node(name), netlist.ops[name]
    for glob, folding in config.folding.items():
        if fnmatchcase(node.path, glob):
            cycles = max(b.schedule().interval() for b in op.blocks(folding.simd, folding.pe, {}).values())
            return Choice(folding.simd, folding.pe, cycles, Resources())
    table = choices(op, config.target)
    if config.interval is None:
        return min(table, key=lambda c: (c.cost, c.cycles, c.pe))
    fitting = [c for c in table if c.cycles <= config.interval]
    if not fitting:
        best = min(c.cycles for c in table)
        raise UnsupportedOp(f"{node.where()}: needs {best} cycles a sample at full width; map.interval allows {config.interval}")
    return min(fitting, key=lambda c: (c.cost, -c.cycles, c.pe))


def _follow_layouts(netlist: Netlist, nodes: list[str], chosen: dict[str, Choice]) -> None:
    """Let a layout node give the lanes that its consumer takes."""
    for name, after in zip(nodes, nodes[1:], strict=False):
        if netlist.graph.node(name).kind == "layout":
            chosen[name] = replace(chosen[name], pe=chosen[after].simd)
