"""Choose lanes for every operator and depths for every FIFO: the mapping to hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mase.cost.folding import Choice, Folded, fold, priced
from mase.dataflow.circuit import Pin
from mase.dataflow.schedule import OUT
from mase.dataflow.work import Fold
from mase.errors import ConfigError, suggest
from mase.graph import Graph, HwRecord
from mase.lowering import Lowering
from mase.netlist import CONVERT, FORK, Netlist, build, sized
from passes.base import graph_pass


class Folding(dict[str, int]):
    """A folding of any operator by its two sides: ``simd`` inputs, ``pe`` outputs a cycle."""

    def __init__(self, simd: int = 1, pe: int = 1) -> None:
        super().__init__(simd=simd, pe=pe)


@dataclass(frozen=True)
class MapConfig:
    """How to build.

    Args:
        interval: cycles a sample that every operator and converter must keep; None means as cheap as possible.
        folding: glob of module paths -> folding by name, fixed by hand, such as ``{"simd": 8, "pe": 4}`` or
            ``{"lanes": 4}`` (``Folding(8, 4)`` says it of any operator); the first match wins.
        wide: foldings by hand may go beyond a layer: its streams are as wide as a host's bus, and lanes beyond a row
            carry zeros.
        target: device whose costs decide between foldings.
    """

    interval: int | None = None
    folding: Mapping[str, Fold] = field(default_factory=dict)
    target: str = "xcup"
    wide: bool = False


@dataclass(frozen=True)
class MapReport:
    """What was chosen.

    Args:
        choices: folding and price by node, those of reshapes included.
        converters, forks: what stands between nodes, by instance.
        fifos: depths by instance. bottleneck: the node that sets the pace.
        cost: of all these, in LUT-equivalents before FIFOs have their depths: what a search scores.
        interval: cycles a sample.
        exact: False where so many branches are open at once that only part of the foldings could be compared.
    """

    choices: Mapping[str, Choice]
    converters: Mapping[str, Choice]
    forks: Mapping[str, Choice]
    fifos: Mapping[str, int]
    bottleneck: str
    cost: float
    interval: int
    exact: bool


@graph_pass("map", MapConfig, requires=("formats",), provides=("hardware",))
def map_graph(graph: Graph, config: MapConfig) -> tuple[Graph, MapReport]:
    """Give every operator the lanes that make the whole cheapest at this interval, then every FIFO its least depth."""
    lowering = Lowering()
    netlist = build(graph, lowering)
    check_globs(graph, config)
    nodes = [graph.node(name) for name in netlist.nodes]
    folded = fold(nodes, list(netlist.ops.values()), config.target, config.interval, config.folding, wide=config.wide)
    records = {
        node.name: replace(node.record, hw=HwRecord(netlist.ops[node.name].foldings.fold(*lanes)))
        for node, lanes in zip(nodes, folded.lanes, strict=True)
    }
    laid = build(graph.replace(records), lowering)
    depths = sized(laid)
    fifos: dict[str, dict[str, int]] = {}
    for pin, (instance, key) in laid.fifos().items():
        fifos.setdefault(instance.node, {})[key] = depths[pin]
    for name in {**records, **fifos}:  # an input that is forked has FIFOs too
        record = records.get(name, graph.node(name).record)
        records[name] = replace(record, hw=replace(record.hw or HwRecord(), fifos=fifos.get(name, {})))
    return graph.replace(records), _report(laid, folded, config.target, depths)


def _report(laid: Netlist, folded: Folded, target: str, depths: Mapping[Pin, int]) -> MapReport:
    chosen = {
        name: priced(laid.ops[name].foldings, target, *lanes)
        for name, lanes in zip(laid.nodes, folded.lanes, strict=True)
    }
    converters, forks = (_between(laid, role, target) for role in (CONVERT, FORK))
    named = {pin.block if pin.port == OUT else ".".join(pin): depth for pin, depth in depths.items()}
    slowest = max(laid.instances, key=lambda instance: instance.block.schedule().interval())
    return MapReport(chosen, converters, forks, named, slowest.node, folded.cost, folded.interval, folded.exact)


def _between(laid: Netlist, role: str, target: str) -> dict[str, Choice]:
    """Price what stands between nodes in a role, at the lanes of its streams."""
    found = {}
    for i in laid.instances:
        if i.between is not None and i.role.startswith(role):
            come, go = (next(iter(side.values())).lanes for side in (i.block.inputs, i.block.outputs))
            found[i.name] = priced(i.between, target, come, go)
    return found


def check_globs(graph: Graph, config: MapConfig) -> None:
    """Raise ConfigError where a glob of the foldings by hand matches no node."""
    paths = [node.path for node in graph.operators()]
    for glob in config.folding:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise ConfigError(f"map.folding {glob!r}: matches no node{suggest(glob, paths)}")
