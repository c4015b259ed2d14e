"""Choose lanes for every operator and depths for every FIFO: the mapping to hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mase.cost.folding import Choice, choices
from mase.cost.resources import Resources
from mase.errors import ConfigError, UnsupportedOp, suggest
from mase.graph import Graph, HwRecord
from mase.netlist import Instance, Netlist, build, sized
from mase.ops.base import HardwareOp
from mase.ops.width_converter import WidthConverter
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
    check_globs(graph, config)
    limit = config.interval
    while True:
        chosen = {name: _choose(netlist, name, config, limit) for name in netlist.nodes}
        _follow_layouts(netlist, chosen)
        records = {n: replace(graph.node(n).record, hw=HwRecord(c.simd, c.pe)) for n, c in chosen.items()}
        laid = build(graph.replace(records), ops)
        slowest = max(laid.instances, key=_cycles)
        if config.interval is None or _cycles(slowest) <= config.interval:
            break
        limit = _tighter(laid, slowest, config, limit)
    depths = sized(laid)
    final = {}
    for name, choice in chosen.items():
        fifos = {i.role: depths[i.name] for i in laid.instances if i.node == name}
        final[name] = replace(graph.node(name).record, hw=HwRecord(choice.simd, choice.pe, fifos))
    return graph.replace(final), MapReport(chosen, depths, slowest.node)


def _cycles(instance: Instance) -> int:
    return instance.block.schedule().interval()


def _tighter(laid: Netlist, slowest: Instance, config: MapConfig, limit: int | None) -> int:
    """Return a lower limit for operators where a converter between them, which may add a cycle a row, is too slow."""
    assert config.interval is not None
    assert limit is not None
    lower = limit - (_cycles(slowest) - config.interval)
    converts = isinstance(slowest.block, WidthConverter)
    if converts and lower >= 1:
        return lower
    what = "the width converter" if converts else "the chosen folding"
    where = laid.graph.node(slowest.node).where()
    allowed = f"map.interval allows {config.interval}"
    raise UnsupportedOp(f"{where}: {what} takes {_cycles(slowest)} cycles a sample; {allowed}")


def check_globs(graph: Graph, config: MapConfig) -> None:
    """Raise ConfigError where a glob of the foldings by hand matches no node."""
    paths = [node.path for node in graph.operators()]
    for glob in config.folding:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise ConfigError(f"map.folding {glob!r}: matches no node{suggest(glob, paths)}")


def _choose(netlist: Netlist, name: str, config: MapConfig, limit: int | None) -> Choice:
    """Return the lanes that are fixed by hand, else the cheapest that take at most ``limit`` cycles a sample."""
    node, op = netlist.graph.node(name), netlist.ops[name]
    for glob, folding in config.folding.items():
        if fnmatchcase(node.path, glob):
            blocks = op.blocks(folding.simd, folding.pe, {}).values()
            cycles = max((block.schedule().interval() for block in blocks), default=0)
            return Choice(folding.simd, folding.pe, cycles, Resources())
    table = choices(op, config.target)
    if limit is None:
        return min(table, key=lambda c: (c.cost, c.cycles, c.pe))
    fitting = [c for c in table if c.cycles <= limit]
    if not fitting:
        best = min(c.cycles for c in table)
        allowed = f"map.interval allows {config.interval}"
        extra = "" if config.interval in (None, limit) else f", of which converters take {config.interval - limit}"
        raise UnsupportedOp(f"{node.where()}: needs {best} cycles a sample at full width; {allowed}{extra}")
    return min(fitting, key=lambda c: (c.cost, -c.cycles, c.pe))


def _follow_layouts(netlist: Netlist, chosen: dict[str, Choice]) -> None:
    """Let a layout node give the lanes that the operator after it takes; at the end, those that came to it."""
    operators = [name for name in chosen if netlist.graph.node(name).kind != "layout"]
    lanes = chosen[operators[-1]].pe if operators else 1
    for name in reversed(netlist.nodes):
        if name in operators:
            lanes = chosen[name].simd
        else:
            chosen[name] = replace(chosen[name], pe=lanes)
