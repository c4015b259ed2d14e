"""The one place that builds operators: what is scored, run, laid out, emitted and proven are the same objects.

An operator depends on its node and on what it reads upstream: formats, and what is proven there (such as "never
negative"), which decides its widths. What it reads is noted while it is built, and it is kept by

    (its node's name, record but lanes and FIFO depths, tensors and format parameters; all that it read upstream)

Building is a function of what is read, so where all of it is the same, the same operator would be built: whatever a
point of a search changes, the operator that it gets is the one that the build gets. The codes of an edge depend on
more, the weights upstream; ``Lowered.key`` is the digest of it all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from hashlib import blake2b
from typing import cast

from torch import Tensor, fx

from mase.cost.device import device
from mase.cost.resources import FITTED, Resources, bill
from mase.formats import QuantParams
from mase.formats.kept import Kept
from mase.graph import Graph, OpNode, Record
from mase.ops.base import OPS, Arithmetic, HardwareOp
from mase.ops.decoded import Decoded
from mase.registry import Registry

Alternative = Callable[[Arithmetic], Arithmetic | None]  # other hardware with the same codes; None where it has none
ALTERNATIVES: Registry[Alternative] = Registry("alternative", "mase.alternatives")
FIELDS = tuple(field.name for field in fields(Record) if field.name != "hw")
KEPT = 1 << 28  # bytes of weights whose operators are kept beyond their graph; the least recently used one goes first
SMALL = 1 << 12  # bytes that any operator takes
INPUTS, PARAMS, TENSOR = "inputs", "params", "tensor"  # what is read of a node beside its record
KEYED = {"key": ("path", "table")}  # fields that a method of a record reads
Key = bytes
Item = tuple[str, str]  # what is read: the name of a node, and a field of its record or one of the above
Value = object  # of an item; equal for the same objects


def lower(node: OpNode) -> Arithmetic:
    """Build the operator of a node of a kind that has hardware.

    Raises:
        UnsupportedOp: the formats or sizes have no exact hardware; says why.
    """
    op = OPS[node.kind]
    assert issubclass(op, HardwareOp), f"{node.where()}: has no hardware"
    op.check_formats(node)
    return Decoded.of(cheapest(op.from_node(node)), node)


def cheapest(op: Arithmetic) -> Arithmetic:
    """Return what gives the codes of an operator for the least hardware: itself, or one of its alternatives."""
    others = [other for _, alternative in ALTERNATIVES.items() if (other := alternative(op)) is not None]
    return min((op, *others), key=_price) if others else op


def _price(op: Arithmetic) -> float:
    """Return LUT-equivalents at the fewest lanes, on the device whose costs are fitted."""
    foldings, target = op.foldings, device(FITTED)
    simd, pe = (int(lanes.min()) for lanes in foldings.lanes())
    works = foldings.work(simd, pe, foldings.fifos(simd, pe)).values()
    return sum(Resources.of(bill(work, target)).equivalent(target) for work in works)


class Lowering:
    """Keep operators by key, across graphs that share tensors: points of a search, a graph before and after mapping.

    Tensors and records count as equal where they are the same object. A tensor must not change while this lives.
    """

    def __init__(self) -> None:
        self._serials: dict[int, tuple[int, object]] = {}  # holds the objects, so that no other gets their address
        self._ops: OrderedDict[tuple[Value, ...], tuple[Arithmetic, int]] = OrderedDict()
        self._readings: dict[str, list[tuple[Item, ...]]] = {}  # by node: all that building it has ever read upstream
        self._bytes, self._kept = 0, Kept()
        self._last: Lowered | None = None

    def of(self, graph: Graph) -> Lowered:
        """Return the operators of a graph."""
        if self._last is None or self._last.graph is not graph:
            self._last = Lowered(graph, self)
        return self._last

    def serial(self, thing: object) -> int:
        """Return a number that no other object has or will have."""
        return self._serials.setdefault(id(thing), (len(self._serials), thing))[0]

    def op(self, node: OpNode, own: Key, value: Callable[[Item], Value]) -> Arithmetic:
        """Return the operator of a node, built where none is kept that has read the same.

        Args:
            own: digest of all that the node has itself. value: of an item of the node's graph.
        """
        readings = self._readings.setdefault(node.name, [])
        for items in readings:
            key = own, items, *map(value, items)
            if key in self._ops:
                self._ops.move_to_end(key)
                return self._ops[key][0]
        seen = set[Item]()
        with self._kept.used():
            op = lower(_Reader(node, seen))
        items = tuple(sorted(item for item in seen if item[0] != node.name))
        if items not in readings:
            readings.append(items)
        size = SMALL + sum(8 * node.tensor(role).numel() for role in node.record.operands)
        self._ops[own, items, *map(value, items)] = op, size
        self._bytes += size
        while self._bytes > KEPT and len(self._ops) > 1:
            self._bytes -= self._ops.popitem(last=False)[1][1]
        return op


class _Reader(OpNode):
    """A node that notes what is read of it and of the nodes before it."""

    def __init__(self, node: OpNode, seen: set[Item]) -> None:
        super().__init__(node.graph, node.node)
        self._seen, self._where = seen, ""
        self._record = cast("Record", _ReadRecord(super().record, self.name, seen))
        self._inputs: list[OpNode] | None = None

    @property
    def record(self) -> Record:
        return self._record

    @property
    def inputs(self) -> list[OpNode]:
        if self._inputs is None:
            self._seen.add((self.name, INPUTS))
            self._inputs = [_Reader(source, self._seen) for source in super().inputs]
        return [*self._inputs]

    def where(self) -> str:
        if not self._where:
            self._where = super().where()
        return self._where

    @property
    def users(self) -> list[OpNode]:
        raise AssertionError(f"{self.name}: an operator depends on its node and on what lies before it")

    def params(self, role: str = "") -> QuantParams:
        self._seen.add((self.name, f"{PARAMS}:{role}"))
        return super().params(role)

    def tensor(self, role: str) -> Tensor:
        self._seen.add((self.name, f"{TENSOR}:{role}"))
        return super().tensor(role)


class _ReadRecord:
    """A record that notes which of its fields are read; a field that was is here from then on."""

    def __init__(self, record: Record, name: str, seen: set[Item]) -> None:
        self._record, self._name, self._seen = record, name, seen

    def __getattr__(self, attr: str) -> object:
        if attr in KEYED:
            self._seen.update((self._name, field) for field in KEYED[attr])
        else:
            self._seen.add((self._name, attr))
        value: object = getattr(self._record, attr)
        self.__dict__[attr] = value
        return value


class Lowered:
    """The operators of one graph, each built on first use."""

    def __init__(self, graph: Graph, lowering: Lowering) -> None:
        self.graph, self._lowering = graph, lowering
        self._own: dict[str, Key] = {}
        self._keys: dict[str, Key] = {}
        self._values: dict[Item, Value] = {}
        self._ops: dict[str, Arithmetic] = {}

    def op(self, node: OpNode) -> Arithmetic:
        """Return the operator of a node of the graph, of a kind that has hardware.

        Raises:
            UnsupportedOp: the formats or sizes have no exact hardware; says why.
        """
        if node.name not in self._ops:
            found = OpNode(self.graph, node.node)
            self._ops[node.name] = self._lowering.op(found, self._digest(found), self._value)
        return self._ops[node.name]

    def key(self, node: OpNode) -> Key:
        """Return the digest of all that the codes of a node's result depend on but the graph's inputs."""
        pending = [node.node]
        while pending:
            top = OpNode(self.graph, pending[-1])
            inputs = [] if top.name in self._keys else top.inputs
            missing = [source.node for source in inputs if source.name not in self._keys]
            if missing:
                pending += missing
                continue
            if top.name not in self._keys:
                keys = (self._keys[source.name] for source in inputs)
                self._keys[top.name] = blake2b(self._digest(top) + b"".join(keys), digest_size=16).digest()
            pending.pop()
        return self._keys[node.name]

    def _digest(self, node: OpNode) -> Key:
        """Return the digest of all that a node has itself."""
        if node.name not in self._own:
            graph, record, serial = self.graph, node.record, self._lowering.serial
            keys = [record.key(role) for role in record.operands]
            things = [getattr(record, name) for name in FIELDS]
            things += [graph.quant.get(node.name), *map(graph.tensors.get, keys), *map(graph.quant.get, keys)]
            text = f"{node.name}\n{len(node.node.args)}\n{[serial(thing) for thing in things]}"
            self._own[node.name] = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._own[node.name]

    def _value(self, item: Item) -> Value:
        """Return what is there to read now; a node that is gone has nothing."""
        if item not in self._values:
            self._values[item] = self._read(*item)
        return self._values[item]

    def _read(self, name: str, what: str) -> Value:
        if name not in self._named:
            return None
        node, serial = OpNode(self.graph, self._named[name]), self._lowering.serial
        of, _, role = what.partition(":")
        if of == INPUTS:
            return tuple(source.name for source in node.inputs)
        if of in (PARAMS, TENSOR):
            table = self.graph.quant if of == PARAMS else self.graph.tensors
            return serial(table.get(node.record.key(role) if role else name))
        return serial(getattr(node.record, what))

    @cached_property
    def _named(self) -> dict[str, fx.Node]:
        return {node.name: node for node in self.graph.module.graph.nodes}
