"""The one place that builds operators: what is scored, run, laid out, emitted and proven are the same objects.

An operator depends on its node and on all that lies upstream of it, since what is proven there (such as "never
negative") decides its widths. So operators are kept by

    key(node) = digest(name, record but lanes and FIFO depths, tensors and format parameters, keys of the inputs)

and whatever a point of a search changes, the operator that it gets is the one that the build gets.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from hashlib import blake2b

from mase.graph import Graph, OpNode, Record
from mase.ops.base import OPS, Arithmetic, HardwareOp
from mase.ops.decoded import Decoded

FIELDS = tuple(field.name for field in fields(Record) if field.name != "hw")
KEPT = 1 << 28  # bytes of weights whose operators are kept beyond their graph; the least recently used one goes first
SMALL = 1 << 12  # bytes that any operator takes
Key = bytes


def lower(node: OpNode) -> Arithmetic:
    """Build the operator of a node of a kind that has hardware.

    Raises:
        UnsupportedOp: the formats or sizes have no exact hardware; says why.
    """
    op = OPS[node.kind]
    assert issubclass(op, HardwareOp), f"{node.where()}: has no hardware"
    op.check_formats(node)
    return Decoded.of(op.from_node(node), node)


class Lowering:
    """Keep operators by key, across graphs that share tensors: points of a search, a graph before and after mapping.

    Tensors and records count as equal where they are the same object. A tensor must not change while this lives.
    """

    def __init__(self) -> None:
        self._serials: dict[int, tuple[int, object]] = {}  # holds the objects, so that no other gets their address
        self._ops: OrderedDict[Key, tuple[Arithmetic, int]] = OrderedDict()
        self._bytes = 0
        self._last: Lowered | None = None

    def of(self, graph: Graph) -> Lowered:
        """Return the operators of a graph."""
        if self._last is None or self._last.graph is not graph:
            self._last = Lowered(graph, self)
        return self._last

    def serial(self, thing: object) -> int:
        """Return a number that no other object has or will have."""
        return self._serials.setdefault(id(thing), (len(self._serials), thing))[0]

    def op(self, key: Key, node: OpNode) -> Arithmetic:
        """Return the operator of a key, built from ``node`` where it is not kept."""
        if key in self._ops:
            self._ops.move_to_end(key)
            return self._ops[key][0]
        op = lower(node)
        size = SMALL + sum(8 * node.tensor(role).numel() for role in node.record.operands)
        self._ops[key] = op, size
        self._bytes += size
        while self._bytes > KEPT and len(self._ops) > 1:
            self._bytes -= self._ops.popitem(last=False)[1][1]
        return op


class Lowered:
    """The operators of one graph, each built on first use."""

    def __init__(self, graph: Graph, lowering: Lowering) -> None:
        self.graph, self._lowering = graph, lowering
        self._keys: dict[str, Key] = {}
        self._ops: dict[str, Arithmetic] = {}

    def op(self, node: OpNode) -> Arithmetic:
        """Return the operator of a node of the graph, of a kind that has hardware.

        Raises:
            UnsupportedOp: the formats or sizes have no exact hardware; says why.
        """
        if node.name not in self._ops:
            self._ops[node.name] = self._lowering.op(self.key(node), OpNode(self.graph, node.node))
        return self._ops[node.name]

    def key(self, node: OpNode) -> Key:
        """Return the digest of all that the operator of a node depends on."""
        pending = [node.node]
        while pending:
            top = OpNode(self.graph, pending[-1])
            inputs = [] if top.name in self._keys else top.inputs
            missing = [source.node for source in inputs if source.name not in self._keys]
            if missing:
                pending += missing
                continue
            if top.name not in self._keys:
                self._keys[top.name] = self._digest(top, [self._keys[source.name] for source in inputs])
            pending.pop()
        return self._keys[node.name]

    def _digest(self, node: OpNode, inputs: list[Key]) -> Key:
        graph, record, serial = self.graph, node.record, self._lowering.serial
        keys = [record.key(role) for role in record.operands]
        things = [getattr(record, name) for name in FIELDS]
        things += [graph.quant.get(node.name), *map(graph.tensors.get, keys), *map(graph.quant.get, keys)]
        text = f"{node.name}\n{len(inputs)}\n{[serial(thing) for thing in things]}"
        return blake2b(text.encode("utf-8", "surrogatepass") + b"".join(inputs), digest_size=16).digest()
