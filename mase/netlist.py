"""From a mapped graph to RTL blocks with wires between them: what emission and timing both read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NoReturn

from mase.blocks.fork import Fork
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.schedule import IN, OUT, Actor, Channel, Deadlock, Loop, Step, Timing, attempt, run, taken
from mase.dataflow.sizing import UNBOUNDED, least_depths
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.width_converter import WidthConverter
from mase.dataflow.work import Foldings
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import Graph, HwRecord, OpNode
from mase.interpreter import has_formats, is_exact
from mase.lowering import Lowered, Lowering
from mase.ops.base import OPS, Arithmetic, HardwareOp, builds, travel, view

SINK = Actor("the sink", (Step((IN,), (IN,), (), (OUT,)),), {OUT: 0})
NEVER = "never"  # a port whose token never comes
SHOWN = 3  # nodes that one line names
CONVERT, FORK = "convert", "fork"


@dataclass(frozen=True, eq=False)
class Instance:
    """One RTL block in its place.

    Args:
        node: graph node that it belongs to. role: ``""`` the operator, ``convert`` before an input of it, ``fork``
            behind it where several take its result, else a part of it, such as ``normalise``.
        edge: name of the graph edge that its output stream is (a view that moves nothing gives it its own), or ""
            inside a node.
        between: of what stands between nodes, everything but its lanes, which are those of its streams; else None.
    """

    node: str
    role: str
    block: Block
    edge: str
    between: Foldings | None = None

    @property
    def name(self) -> str:
        """Name that is unique in the netlist."""
        return f"{self.node}.{self.role}" if self.role else self.node

    def fifo(self, port: str) -> str:
        """Return the key under which the node's record holds the depth behind an output."""
        return self.role if len(self.block.outputs) == 1 else f"{self.role}.{port}"


@dataclass(frozen=True, eq=False)
class Netlist:
    """Blocks and wires.

    Args:
        graph: the mapped graph. entries, exits: names of the edges that the host encodes, and of those that it decodes.
        circuit: blocks by instance name; its inputs are fed by the entries, its outputs give the exits.
        instances: in an order in which producers come first. ops: operator of each node, in the same order.
        named: output pins that are graph edges, by name of the edge.
    """

    graph: Graph
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    circuit: Circuit
    instances: tuple[Instance, ...]
    ops: Mapping[str, Arithmetic]
    named: Mapping[str, Pin] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the operators between entries and exits; a view that moves nothing has no instance."""
        return tuple(self.ops)

    @property
    def entry(self) -> str:
        """Name of the edge that the host encodes, where there is one."""
        return self.entries[0]

    @property
    def stream_in(self) -> StreamType:
        """What the first entry feeds."""
        return self.circuit.takes[0]

    @property
    def stream_out(self) -> StreamType:
        """What the first exit gives."""
        return self.circuit.gives[0]

    def stream(self, edge: str) -> StreamType:
        """Return the stream of a named edge, with the order in which its elements travel."""
        if edge in self.entries:
            found = self.circuit.takes[self.entries.index(edge)]
        else:
            pin = self.named[edge]
            found = self.circuit.blocks[pin.block].outputs[pin.port]
        order = travel(self.graph.node(edge))
        if order.rows != found.rows:  # a view has made other rows of them, or a group takes its part of each
            order = Travel((found.rows, found.cols), (0, 1)) if order.plain else order.parted(found.cols)
        return replace(found, travel=order)

    def edges(self) -> dict[str, StreamType]:
        """Return the stream of each named edge, entries first."""
        return {name: self.stream(name) for name in (*self.entries, *self.named)}

    def signal(self, pin: Pin) -> str:
        """Return the name of the stream at a pin, unique in the netlist: the edge, or a name of its own."""
        return self._signals[pin]

    @cached_property
    def _signals(self) -> dict[Pin, str]:
        edges = {pin: name for name, pin in self.named.items()}
        out = {pin: edges.get(pin, ".".join(pin)) for pin in self.fifos()}
        into = {wire.sink: out[wire.source] for wire in self.circuit.wires}
        return out | into | dict(zip(self.circuit.inputs, self.entries, strict=True))

    def codes(self, *inputs: Code, oracle: bool = False) -> dict[str, Code]:
        """Return the codes of every graph edge from those of the entries, by name.

        Args:
            oracle: compute on Python integers, one by one, instead of by the vectorised reference.
        """
        values = dict(zip(self.entries, inputs, strict=True))
        for name, op in self.ops.items():
            sources = [values[source.name] for source in self.graph.node(name).inputs]
            values[name] = op.oracle(*sources) if oracle else op.reference(*sources)
        return values

    def network(self, depths: Mapping[Pin, int] | None = None) -> tuple[list[Actor], list[Channel]]:
        """Return actors and channels for the recurrence; ``depths`` by output pin overrides the blocks' own.

        The sinks are the last actors, one an exit; each is always ready, so a slot comes back one cycle after its beat
        is visible.
        """
        actors: list[Actor] = []
        channels: list[Channel] = []
        schedules = {instance.name: instance.block.schedule() for instance in self.instances}
        sources, own = {wire.sink: wire.source for wire in self.circuit.wires}, self.depths()

        def place(pin: Pin) -> tuple[str, str]:
            return _inside(pin.block, *schedules[pin.block].port(pin.port))

        def join(source: Pin, sink: tuple[str, str]) -> Channel:
            return Channel(place(source), sink, {**own, **(depths or {})}[source])

        for instance in self.instances:
            schedule = schedules[instance.name]
            for c in schedule.channels:
                source, sink = (_inside(instance.name, *end) for end in (c.source, c.sink))
                channels.append(replace(c, source=source, sink=sink))
            pins = [Pin(instance.name, port) for port in instance.block.inputs]
            channels += [join(sources[pin], place(pin)) for pin in pins if pin in sources]
            actors += [replace(actor, name=_inside(instance.name, actor.name, "")[0]) for actor in schedule.actors]
        for i, (pin, stream) in enumerate(zip(self.circuit.outputs, self.circuit.gives, strict=True)):
            channels.append(join(pin, (_sink(i), IN)))
            actors.append(replace(SINK, name=_sink(i), body=(Loop(stream.beats, SINK.body),)))
        return actors, channels

    def place(self, pin: Pin) -> tuple[str, str]:
        """Return the actor and its port behind a pin, by the names that :meth:`network` gives them."""
        return _inside(pin.block, *self.circuit.blocks[pin.block].schedule().port(pin.port))

    def depths(self) -> dict[Pin, int]:
        """Return the depth of the FIFO behind each output pin, in beats."""
        return {pin: self.circuit.blocks[pin.block].depth(pin.port) for pin in self.fifos()}

    def fifos(self) -> dict[Pin, tuple[Instance, str]]:
        """Return the instance of each output pin, and the key of its FIFO in the record of its node."""
        return {Pin(i.name, port): (i, i.fifo(port)) for i in self.instances for port in i.block.outputs}

    def timing(self, tensors: int = 3) -> Timing:
        """Return the exact cycles of ``tensors`` samples with all sources always valid and all sinks always ready."""
        return run(*self.network(), tensors)

    def backlog(self, given: int = 0) -> tuple[int, ...]:
        """Return how many beats each entry takes while every sink takes ``given`` beats and no more."""
        return self.held(dict.fromkeys(range(len(self.exits)), given), range(len(self.entries)))

    def frames_inside(self, entry: int, out: int) -> int:
        """Return how many samples may have entered whole while the first of them has not left by an exit whole.

        Args:
            entry, out: by index. The other exits may give what they have.
        """
        beats = self.circuit.takes[entry].beats
        return self.held({out: self.circuit.gives[out].beats - 1}, [entry])[0] // beats

    def sources(self, out: int) -> list[int]:
        """Return the entries, by index, that an exit depends on."""
        before = {wire.sink: wire.source.block for wire in self.circuit.wires}
        pending, blocks = [self.circuit.outputs[out].block], set[str]()
        while pending:
            name = pending.pop()
            pins = [Pin(name, port) for port in self.circuit.blocks[name].inputs]
            pending += [before[pin] for pin in pins if pin in before and before[pin] not in blocks]
            blocks.add(name)
        return [i for i, pin in enumerate(self.circuit.inputs) if pin.block in blocks]

    def early(self, entry: int, out: int) -> bool:
        """Tell whether an exit may give the last beat of a sample before an entry has taken its last one."""
        actors, channels = self.network()
        beats = self.circuit.takes[entry].beats
        given = [Loop(beats - 1, (Step((), (), (OUT,), (OUT,)),))] if beats > 1 else []
        source = Actor("the source", (*given, Step((NEVER,))), {})
        channels += [Channel((source.name, OUT), self.place(self.circuit.inputs[entry]), beats), _never(source)]
        found = attempt([source, *actors], channels, 1)
        assert isinstance(found, Deadlock)
        return _sink(out) not in {wait.actor for wait in found.waits}

    def held(self, given: Mapping[int, int], entries: Sequence[int]) -> tuple[int, ...]:
        """Return how many beats entries take while some sinks, by index, take so many beats and no more."""
        actors, channels = self.network()
        stuck = {_sink(i): beats for i, beats in given.items()}
        held = [actor for actor in actors if actor.name in stuck]
        actors = [actor for actor in actors if actor.name not in stuck]
        actors += [replace(sink, body=(Loop(stuck[sink.name], SINK.body), Step((NEVER,)))) for sink in held]
        channels += [_never(sink) for sink in held]
        places = [self.place(self.circuit.inputs[i]) for i in entries]
        sizes = [self.circuit.takes[i].beats for i in entries]
        tensors = 1
        while True:  # every FIFO has an end, so some number of samples does not fit
            tensors *= 2
            found = taken(actors, channels, tensors)
            if all(found[place] < tensors * beats for place, beats in zip(places, sizes, strict=True)):
                return tuple(found[place] for place in places)

    def interval(self) -> int:
        """Return the closed form of the interval: valid once FIFOs are deep enough."""
        return max(instance.block.schedule().interval() for instance in self.instances)


def build(graph: Graph, lowering: Lowering | None = None) -> Netlist:
    """Lay out a mapped graph.

    Args:
        lowering: keeps operators; one that serves several calls builds them once.

    Raises:
        UnsupportedOp: nodes have no hardware; names the first with their source lines, and what is supported.
    """
    entries = [_checked(node) for node in encoded(graph)]
    nodes = region(graph)
    if wrong := [node for node in nodes if not is_exact(node)]:
        _refuse(wrong)
    if not nodes:
        raise UnsupportedOp("graph: there is nothing to build between input and output")
    lowered = (lowering or Lowering()).of(graph)
    layout = _Layout(graph, entries, nodes, lowered)
    for node in nodes:
        layout.add(node)
    return layout.netlist([node.name for node in graph.output.inputs])


class _Layout:
    """Lay blocks one after the other; each output pin has one taker, so a tensor with several goes through forks."""

    def __init__(self, graph: Graph, entries: Sequence[OpNode], nodes: Sequence[OpNode], lowered: Lowered) -> None:
        self.graph, self.entries = graph, [node.name for node in entries]
        self.ops = {node.name: lowered.op(node) for node in nodes}
        self.uses = Counter(source.name for node in nodes for source in node.inputs)
        self.uses.update(node.name for node in graph.output.inputs)
        self.instances: list[Instance] = []
        self.blocks: dict[str, Block] = {}
        self.wires: list[Wire] = []
        self.inputs: dict[str, Pin] = {}  # what each entry feeds
        self.named: dict[str, Pin] = {}
        self.free: dict[str, list[Pin]] = {}  # by edge: pins that still have no taker

    def add(self, node: OpNode) -> None:
        """Lay the blocks of one node, and what its inputs need before it."""
        op, hw = self.ops[node.name], node.record.hw or HwRecord()
        sources, (simd, pe) = node.inputs, _sides(node, op, hw)
        if op.foldings.follows and (come := self._stream(sources[0].name)) is not None:
            simd = come.lanes
        circuit = op.circuit(simd, pe, hw.fifos)
        if not circuit.blocks:  # the same beats under another name
            self._rename(sources[0].name, node)
            return
        taken = [
            self._take(source.name, node, i, want, hw)
            for i, (source, want) in enumerate(zip(sources, circuit.takes, strict=True))
        ]
        named = {role: f"{node.name}.{role}" if role else node.name for role in circuit.blocks}
        for role, block in circuit.blocks.items():
            self._place(Instance(node.name, role, block, node.name if role == circuit.outputs[0].block else ""))
        self.wires += [Wire(*(Pin(named[pin.block], pin.port) for pin in wire)) for wire in circuit.wires]
        for source, pin in zip(taken, circuit.inputs, strict=True):
            self._join(source, Pin(named[pin.block], pin.port))
        out = circuit.outputs[0]
        self._give(node.name, Pin(named[out.block], out.port), hw)

    def netlist(self, exits: Sequence[str]) -> Netlist:
        """Return what was laid, ``exits`` leading outside."""
        for name in exits:
            if name in self.entries:
                raise UnsupportedOp(f"{self.graph.node(name).where()}: leaves as it came; there is nothing to build")
        for name in self.entries:
            if name not in self.inputs:
                raise UnsupportedOp(
                    f"{self.graph.node(name).where()}: no output depends on it; trace a model without it"
                )
        outputs = tuple(self.free[name].pop(0) for name in exits)
        circuit = Circuit(self.blocks, tuple(self.wires), tuple(self.inputs[name] for name in self.entries), outputs)
        instances = tuple(self.instances)
        return Netlist(self.graph, tuple(self.entries), tuple(exits), circuit, instances, self.ops, self.named)

    def _place(self, instance: Instance) -> None:
        self.instances.append(instance)
        self.blocks[instance.name] = instance.block

    def _stream(self, edge: str) -> StreamType | None:
        """Return the stream of an edge that is laid; None where an entry waits for who takes it."""
        pins = self.free.get(edge)
        return self.blocks[pins[0].block].outputs[pins[0].port] if pins else None

    def _take(self, edge: str, node: OpNode, index: int, want: StreamType, hw: HwRecord) -> Pin | str:
        """Return the pin, or the entry, that feeds an input of a node; a converter stands before it if need be."""
        if edge in self.entries and edge not in self.free and self.uses[edge] == 1:
            return edge
        if edge in self.entries and edge not in self.free:  # the first that takes it says how it comes
            entry = self.graph.node(edge)
            self.inputs[edge] = self._fork(edge, want, self.uses[edge], entry.record.hw or HwRecord())
        pin = self.free[edge].pop(0)
        have = self.blocks[pin.block].outputs[pin.port]
        if have == want:
            return pin
        role = CONVERT if index == 0 else f"{CONVERT}{index}"
        converter = WidthConverter(have, replace(want, grid=have.grid), fifo=hw.fifos.get(role, LEAST_FIFO))
        self._place(Instance(node.name, role, converter, "", converter.foldings))
        self._join(pin, Pin(self.instances[-1].name, IN))
        return Pin(self.instances[-1].name, OUT)

    def _join(self, source: Pin | str, sink: Pin) -> None:
        if isinstance(source, str):
            self.inputs[source] = sink
        else:
            self.wires.append(Wire(source, sink))

    def _give(self, edge: str, pin: Pin, hw: HwRecord) -> None:
        """Name a pin, and fork it where several take it."""
        self.named[edge] = pin
        self.free[edge] = [pin]
        if self.uses[edge] > 1:
            self.wires.append(Wire(pin, self._fork(edge, self._stream(edge), self.uses[edge], hw)))

    def _fork(self, edge: str, stream: StreamType | None, takers: int, hw: HwRecord) -> Pin:
        """Lay forks in a row, one less than there are takers, and return the pin that feeds the first."""
        assert stream is not None
        pins: list[Pin] = []
        first = None
        for i in range(takers - 1):
            role = FORK if i == 0 else f"{FORK}{i}"
            a, b = (hw.fifos.get(f"{role}.{port}", LEAST_FIFO) for port in ("a", "b"))
            fork = Fork(stream, {"a": a, "b": b})
            self._place(Instance(edge, role, fork, "", fork.foldings))
            name = self.instances[-1].name
            if first is None:
                first = Pin(name, IN)
            else:
                self.wires.append(Wire(pins.pop(), Pin(name, IN)))
            pins += [Pin(name, "a"), Pin(name, "b")]
        assert first is not None
        self.free[edge] = pins
        return first

    def _rename(self, edge: str, node: OpNode) -> None:
        """Let a view take its input's pin, and the name of it where nobody else takes it."""
        if edge in self.entries and edge not in self.free:
            raise UnsupportedOp(
                f"{node.where()}: reads the graph input, which others read too, as another shape; "
                "allowed behind a graph input are operators, or one reshape alone"
            )
        pin = self.free[edge].pop(0)
        if self.named.get(edge) == pin:
            del self.named[edge]
            self.instances = [replace(i, edge=node.name) if Pin(i.name, pin.port) == pin else i for i in self.instances]
        self._give(node.name, pin, node.record.hw or HwRecord())


def _sides(node: OpNode, op: Arithmetic, hw: HwRecord) -> tuple[int, int]:
    try:
        return op.foldings.sides(hw.fold)
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{node.where()}: {error}") from error


def encoded(graph: Graph) -> list[OpNode]:
    """Return the edges that the host encodes: each graph input, or the last of the views that follow it alone."""
    return [graph.node(_prefix(node)[-1]) for node in graph.inputs]


def _checked(found: OpNode) -> OpNode:
    """Refuse an edge that the host cannot encode."""
    if found.record.output.format is None:
        raise UnsupportedOp(
            f"{found.where()}: the graph input has no format; quantize gives one (default.activation or inputs)"
        )
    if len(found.record.output.shape) < 2:
        raise UnsupportedOp(
            f"{found.where()}: a sample is one number without an axis; allowed are (batch, features) and more axes"
        )
    return found


def host_prefix(graph: Graph) -> list[str]:
    """Return each graph input and the views that follow it alone: the host does these, and encodes the last."""
    return [name for node in graph.inputs for name in _prefix(node)]


def _prefix(node: OpNode) -> list[str]:
    out = [node.name]
    while len(node.users) == 1 and _renames(node.users[0]):
        node = node.users[0]
        out.append(node.name)
    return out


def _renames(node: OpNode) -> bool:
    """Tell whether a node leaves every element in its place, so that the host may encode what it gives."""
    return view(node) and builds(node) and OPS[node.kind].in_order(node.record)


def sized(netlist: Netlist) -> dict[Pin, int]:
    """Return the least FIFO depths, in order of the stream, that keep the steady interval of unbounded FIFOs."""
    pins = netlist.fifos()
    actors, channels = netlist.network(dict.fromkeys(pins, UNBOUNDED))
    fifos = [i for i, channel in enumerate(channels) if channel.depth == UNBOUNDED]
    depths = least_depths(actors, channels, fifos)
    found = {channels[i].source: depth for i, depth in zip(fifos, depths, strict=True)}
    schedules = {i.name: i.block.schedule() for i in netlist.instances}
    return {pin: found[_inside(pin.block, *schedules[pin.block].port(pin.port))] for pin in pins}


def _sink(out: int) -> str:
    """Return the name of the sink of an exit."""
    return f"{SINK.name} {out}" if out else SINK.name


def _never(actor: Actor) -> Channel:
    return Channel(("nobody", OUT), (actor.name, NEVER), 1)


def _inside(instance: str, actor: str, port: str) -> tuple[str, str]:
    """Return a port of an actor of a block by names that are unique in the netlist."""
    return f"{instance}/{actor}" if actor else instance, port


def region(graph: Graph) -> list[OpNode]:
    """Return the nodes between the edges that the host encodes and the outputs, in order: what becomes hardware."""
    first, needed = {node.name for node in encoded(graph)}, set[str]()
    pending = list(graph.output.inputs)
    while pending:
        node = pending.pop()
        if node.name in needed or node.name in first:
            continue
        needed.add(node.name)
        pending += node.inputs
    return [node for node in graph.operators() if node.name in needed]


def listed(nodes: Sequence[OpNode]) -> str:
    """Name the first nodes, and say how many more there are."""
    shown = "; ".join(node.where() for node in nodes[:SHOWN])
    return shown + (f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else "")


def _refuse(nodes: Sequence[OpNode]) -> NoReturn:
    """Say why the first of some nodes does not compute on integers, and name the others that have no hardware."""
    node, others = nodes[0], [node for node in nodes[1:] if not builds(node)]
    if has_formats(node):
        op = OPS[node.kind]
        assert issubclass(op, HardwareOp)
        op.check_formats(node)  # raises: says which format
    names = ", ".join(name for name, op in OPS.items() if issubclass(op, HardwareOp))
    formats = [t.format for t in (node.record.output, *node.record.operands.values())]
    why = "not all its tensors have formats" if builds(node) and None in formats else "has no hardware"
    target = node.record.attrs.get("target", "") or node.record.attrs.get("function", "")
    also = f"; none either: {listed(others)}" if others else ""
    raise UnsupportedOp(f"{node.where()}{f' {target}' if target else ''}: {why}{also}; supported: {names}")
