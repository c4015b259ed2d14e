"""From a mapped graph to a chain of RTL blocks with channels between them: what emission and timing both read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Loop, Step, Timing, run, taken
from mase.dataflow.sizing import UNBOUNDED, least_depths
from mase.dataflow.stream import StreamType
from mase.dataflow.width_converter import WidthConverter
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import Graph, HwRecord, OpNode
from mase.interpreter import has_formats, is_exact
from mase.lowering import Lowering
from mase.ops.base import OPS, HardwareOp, builds, view

SINK = Actor("the sink", (Step((IN,), (IN,), (), (OUT,)),), {OUT: 0})


@dataclass(frozen=True, eq=False)
class Instance:
    """One RTL block in its place.

    Args:
        node: graph node that it belongs to. role: ``""`` the operator, ``convert`` before it, ``normalise`` after it.
        edge: name of the graph edge that its output stream is (a reshape that moves nothing gives it its own), or ""
            inside a node.
    """

    node: str
    role: str
    block: Block
    edge: str

    @property
    def name(self) -> str:
        """Name that is unique in the netlist."""
        return f"{self.node}.{self.role}" if self.role else self.node

    @property
    def stream(self) -> str:
        """Name of its output stream, unique in the netlist: the edge, or a name of its own inside a node."""
        return self.edge or f"{self.name}.out"


@dataclass(frozen=True, eq=False)
class Netlist:
    """A chain of blocks.

    Args:
        graph: the mapped graph. entry: name of the edge that the host encodes. stream_in: what it feeds.
        instances: in order of the stream. ops: operator of each node.
    """

    graph: Graph
    entry: str
    stream_in: StreamType
    instances: tuple[Instance, ...]
    ops: Mapping[str, HardwareOp]

    @property
    def stream_out(self) -> StreamType:
        """What the last block gives."""
        return self.instances[-1].block.stream_out

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the graph nodes from the entry to the output; a reshape that moves nothing has no instance."""
        return tuple(node.name for node in _chain(self.graph.node(self.entry)))

    def edges(self) -> dict[str, StreamType]:
        """Return the stream of each named edge, the entry first."""
        return {self.entry: self.stream_in} | {i.edge: i.block.stream_out for i in self.instances if i.edge}

    def codes(self, code: Code, oracle: bool = False) -> dict[str, Code]:
        """Return the codes of every graph edge from those of the entry, by name.

        Args:
            oracle: compute on Python integers, one by one, instead of by the vectorised reference.
        """
        values = {self.entry: code}
        for name in self.nodes:
            op, source = self.ops[name], values[self.graph.node(name).inputs[0].name]
            values[name] = op.oracle(source) if oracle else op.reference(source)
        return values

    def network(self, depths: Mapping[str, int] | None = None) -> tuple[list[Actor], list[Channel]]:
        """Return actors and channels for the recurrence; ``depths`` by instance name overrides the blocks' own."""
        actors: list[Actor] = []
        channels: list[Channel] = []
        above: tuple[tuple[str, str], int] | None = None  # what the stream comes from, and the depth of its FIFO
        for instance in self.instances:
            schedule = instance.block.schedule()
            for c in schedule.channels:
                sink, *also = (_inside(instance, *end) for end in c.sinks)
                channels.append(Channel(_inside(instance, *c.source), sink, c.depth, tuple(also)))
            if above is not None:
                channels.append(Channel(above[0], _inside(instance, *schedule.port(IN)), above[1]))
            actors += [replace(actor, name=_inside(instance, actor.name, "")[0]) for actor in schedule.actors]
            depth = (depths or {}).get(instance.name, instance.block.fifo)
            above = _inside(instance, *schedule.port(OUT)), depth
        if above is not None:  # the sink: always ready, so a slot comes back one cycle after its beat is visible
            channels.append(Channel(above[0], (SINK.name, IN), above[1]))
        return [*actors, replace(SINK, body=(Loop(self.stream_out.beats, SINK.body),))], channels

    def timing(self, tensors: int = 3) -> Timing:
        """Return the exact cycles of ``tensors`` samples with the source always valid and the sink always ready."""
        return run(*self.network(), tensors)

    def backlog(self, given: int = 0) -> int:
        """Return how many input beats the blocks take while the sink takes ``given`` output beats and no more."""
        actors, channels = self.network()
        sink = replace(actors[-1], body=(Loop(given, SINK.body), Step(("never",))))
        channels.append(Channel(("nobody", OUT), (sink.name, "never"), 1))
        tensors, found = 1, None
        while found is None:  # every FIFO has an end, so some number of samples does not fit
            tensors *= 2
            found = taken([*actors[:-1], sink], channels, tensors)
        return found

    def frames_inside(self) -> int:
        """Return how many samples may have entered whole while the first of them has not left whole."""
        return self.backlog(self.stream_out.beats - 1) // self.stream_in.beats

    def interval(self) -> int:
        """Return the closed form of the interval: valid once FIFOs are deep enough."""
        return max(instance.block.schedule().interval() for instance in self.instances)


def build(graph: Graph, lowering: Lowering | None = None) -> Netlist:
    """Lay out a mapped graph.

    Args:
        lowering: keeps operators; one that serves several calls builds them once.

    Raises:
        UnsupportedOp: a node has no hardware, or the graph branches; names node, source line and what is supported.
    """
    prefix = host_prefix(graph)
    if not prefix:
        raise UnsupportedOp(f"graph: has {len(graph.inputs)} inputs; hardware takes 1")
    entry = graph.node(prefix[-1])
    if entry.record.output.format is None:
        raise UnsupportedOp(
            f"{entry.where()}: the graph input has no format; quantize gives one (default.activation or inputs)"
        )
    if len(entry.record.output.shape) < 2:
        raise UnsupportedOp(
            f"{entry.where()}: a sample is one number without an axis; allowed are (batch, features) and more axes"
        )
    chain = _chain(entry)
    if not chain:
        raise UnsupportedOp("graph: there is nothing to build between input and output")
    lowered = (lowering or Lowering()).of(graph)
    ops = {node.name: lowered.op(node) for node in chain}
    instances: list[Instance] = []
    stream: StreamType | None = None
    for node in chain:
        hw = node.record.hw or HwRecord()
        if ops[node.name].foldings.follows and stream is not None:
            hw = replace(hw, simd=stream.lanes)
        blocks = ops[node.name].blocks(hw.simd, hw.pe, hw.fifos)
        if blocks:
            first = next(iter(blocks.values())).stream_in
            if stream is not None and stream != first:
                shaped = replace(first, grid=stream.grid)
                converter = WidthConverter(stream, shaped, fifo=hw.fifos.get("convert", LEAST_FIFO))
                instances.append(Instance(node.name, "convert", converter, ""))
            roles = list(blocks)
            for role, block in blocks.items():
                instances.append(Instance(node.name, role, block, node.name if role == roles[-1] else ""))
            stream = instances[-1].block.stream_out
        elif instances:  # the same beats are rows of another shape
            instances[-1] = replace(instances[-1], edge=node.name)
    if not instances:
        raise UnsupportedOp("graph: there is nothing to build between input and output")
    feed = instances[0].block.stream_in
    return Netlist(graph, entry.name, feed, tuple(instances), ops)


def host_prefix(graph: Graph) -> list[str]:
    """Return the graph input and the views that follow it alone: the host does these, and encodes the last.

    Graphs with several inputs encode at each input: the list is empty.
    """
    if len(graph.inputs) != 1:
        return []
    node = graph.inputs[0]
    out = [node.name]
    while len(node.users) == 1 and view(node.users[0]) and builds(node.users[0]):
        node = node.users[0]
        out.append(node.name)
    return out


def sized(netlist: Netlist) -> dict[str, int]:
    """Return the least FIFO depths, in order of the stream, that keep the steady interval of unbounded FIFOs."""
    names = [instance.name for instance in netlist.instances]
    actors, channels = netlist.network(dict.fromkeys(names, UNBOUNDED))
    fifos = [i for i, channel in enumerate(channels) if channel.depth == UNBOUNDED]
    return dict(zip(names, least_depths(actors, channels, fifos), strict=True))


def _inside(instance: Instance, actor: str, port: str) -> tuple[str, str]:
    """Return a port of an actor of a block by names that are unique in the netlist."""
    return f"{instance.name}/{actor}" if actor else instance.name, port


def _chain(entry: OpNode) -> list[OpNode]:
    """Return the nodes from the entry to the output; refuse branches and nodes without hardware."""
    out: list[OpNode] = []
    node = entry
    while True:
        users = node.users
        if len(users) != 1:
            raise UnsupportedOp(
                f"{node.where()}: has {len(users)} consumers; hardware takes chains, where each tensor has 1"
            )
        node = users[0]
        if node.kind == "output":
            return out
        if not is_exact(node):
            if has_formats(node):
                op = OPS[node.kind]
                assert issubclass(op, HardwareOp)
                op.check_formats(node)  # raises: says which format
            names = ", ".join(name for name, op in OPS.items() if issubclass(op, HardwareOp))
            formats = [t.format for t in (node.record.output, *node.record.operands.values())]
            why = "not all its tensors have formats" if builds(node) and None in formats else "has no hardware"
            target = node.record.attrs.get("target", "") or node.record.attrs.get("function", "")
            raise UnsupportedOp(f"{node.where()}{f' {target}' if target else ''}: {why}; supported: {names}")
        out.append(node)
