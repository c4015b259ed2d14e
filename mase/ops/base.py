"""Operators: one object, four truths (docs/design.md): arithmetic, netlist, cycles, resources."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mase.dataflow.block import Block
from mase.dataflow.circuit import Circuit
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Foldings
from mase.errors import GraphError
from mase.formats import Axes, Code, Format, QuantParams
from mase.formats.grid import Grid
from mase.graph import Graph, Json, OpNode, Record
from mase.ops.operations import Operations
from mase.registry import Registry

Family = Literal["compute", "function", "format-change", "other"]  # what a picture colours a node by
MANY = 1 << 30  # inputs, of a kind that takes any number
ADAPTER = "adapts"  # attribute of a requantize node that stands before an input on behalf of who reads it
IMAGE = 4  # axes of a batch of images, whose channels are axis 1


@dataclass(frozen=True, eq=False)
class Affine:
    """Say that a node computes y = (x - centre) * scale + shift with constants along one axis.

    Args:
        axis: of the input, the batch counted. centre, scale, shift: float64 ``[channels]``.
    """

    axis: int
    centre: Tensor
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Pointwise:
    """Say what an operator makes of each code by itself, whatever its place.

    Args:
        order: in which elements travel, on both sides. x, y: grids, without exponents.
        codes: results of codes, int64 of any shape. rising: the results never fall as codes rise; None: not known.
        first: the least code that can come; None: that of the grid.
    """

    order: Travel
    x: Grid
    y: Grid
    codes: Callable[[Tensor], Tensor]
    rising: bool | None = None
    first: int | None = None


@dataclass(frozen=True, eq=False)
class Absorb:
    """Say that a node's own tensors can divide each feature of its result, along the last axis.

    Args:
        rows: its weight has a row a feature; else a number a feature. offset: that this number is stored less.
        activation: what comes behind the weight, such as ``relu``, or "".
    """

    rows: bool
    offset: float = 0.0
    activation: str = ""


@dataclass(frozen=True, eq=False)
class Passage:
    """Say that a factor a feature of the result may be one of an input instead.

    Args:
        inputs: the inputs, one of which takes it. plain: the features are those of that input, in order.
        rows: which feature of the input each one of the result is made of; None: its own. head: size of a head.
    """

    inputs: tuple[int, ...] = (0,)
    plain: bool = True
    rows: Tensor | None = None
    head: int = 0


class Op(ABC):
    """A typed kind of node: how it computes in float, and what its record must look like."""

    kind: ClassVar[str]
    family: ClassVar[Family] = "other"
    constant: ClassVar[bool] = False  # gives a tensor that the model holds
    arity: ClassVar[tuple[int, int]] = (1, 1)  # least and greatest number of inputs
    calls: ClassVar[Mapping[str, Callable[..., object]]] = {}  # rules by function of PyTorch (mase/frontend/calls.py)
    weights: ClassVar[tuple[str, ...]] = ()  # operands that take the format of weights or of biases

    @staticmethod
    @abstractmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Compute in float from the parameters by role and the inputs."""

    @classmethod
    def check(cls, node: OpNode) -> None:
        """Raise GraphError when a record of this kind makes no sense."""
        found, (least, most) = len(node.node.args), cls.arity
        if not least <= found <= most:
            raise GraphError(f"{node.where()}: has {found} inputs; allowed is {_span(least, most)}")

    @classmethod
    def moves(cls, record: Record) -> bool:
        """Tell whether a node only moves elements: it rounds nothing, and its result has the format of its input."""
        return False

    @classmethod
    def view(cls, record: Record) -> bool:
        """Tell whether the result is input 0 seen in another way, in the same memory."""
        return False

    @classmethod
    def axes(cls, record: Record, role: str) -> Axes:
        """Return the axes of an operand that formats work along: one an output, and the one that is summed over."""
        return Axes()

    @classmethod
    def epilogues(cls, record: Record) -> frozenset[str]:
        """Return the functions that a node may still take in before its rounding, as its attribute ``activation``."""
        return frozenset()

    @classmethod
    def epilogue(cls, record: Record) -> str:
        """Return the function that a node is, where it may become the ``activation`` of the node before it, else ""."""
        return ""

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        """Return the axis of an input that a node works along, the batch counted: there it travels fastest.

        Args:
            index: of the input. rank: its number of axes.

        Returns:
            the axis, such as the channels for a convolution; None where the node takes elements in any order.
        """
        return None

    @classmethod
    def in_order(cls, record: Record) -> bool:
        """Tell whether a node gives the elements of its result in the order in which those of its inputs come.

        Of several inputs the first one that has as many elements counts.
        """
        return False

    @classmethod
    def keeps_axes(cls, record: Record) -> bool:
        """Tell whether each axis of the result is the same one of every input, perhaps of another size."""
        return cls.in_order(record)

    @classmethod
    def carried(cls, record: Record, shape: Sequence[int], axis: int) -> int | None:
        """Return the axis of the result that one of input 0 becomes; None where it becomes none.

        Args:
            shape: of input 0, the batch counted.
        """
        return axis if cls.keeps_axes(record) else None

    @classmethod
    def over_image(cls, node: OpNode, shape: Sequence[int]) -> tuple[Record, dict[str, Tensor]] | None:
        """Return a node that computes the same from an image as this one does from the image flattened.

        Args:
            shape: ``(batch, channels, ...)`` of the image.

        Returns:
            its record, whose result has the axes of the image, and its tensors by key; None where there is none.
        """
        return None

    @classmethod
    def channels(cls, record: Record) -> int | None:
        """Return the axis of the result whose scale and shift may move into axis 0 of ``weight`` and ``bias``."""
        return None

    @classmethod
    def affine(cls, node: OpNode) -> Affine | None:
        """Return the constants of a node that only scales and shifts along an axis."""
        return None

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        """Tell whether a node is proven to give no negative value."""
        return node.record.attrs.get("activation") == "relu"

    @classmethod
    def index_format(cls, node: OpNode) -> str:
        """Return the format of a result that is not a real number, such as an index, as text; "" of all others."""
        return ""

    @classmethod
    def gives_index(cls) -> bool:
        """Tell whether nodes of a kind may give what is not a real number: then it has an ``index_format``."""
        return "index_format" in vars(cls)

    @classmethod
    def adapts(cls, record: Record) -> bool:
        """Tell whether an input may have to be requantised for a node, which ``adapted`` then says."""
        return False

    @classmethod
    def adapted(cls, node: OpNode, fmt: Format, params: QuantParams) -> str | None:
        """Return the format in which a node takes an input that comes in another.

        Returns:
            the text form, "" where the input may come as it is; None: the format and the parameters of the result.
        """
        return ""

    @classmethod
    def matrices(cls, record: Record) -> tuple[str, ...]:
        """Return the operands that are layers: matrices ``[outputs, inputs]``, or a stack of them, one an expert."""
        return ()

    @classmethod
    def feeds(cls, node: OpNode, x: Tensor, routed: bool = True) -> Iterator[tuple[str, int | None, Tensor]]:
        """Yield role, number of the expert, and tokens ``[..., inputs]`` of each matrix, from the node's input 0.

        Args:
            routed: an expert has the tokens that are sent to it; else it has all.
        """
        yield from ()

    @classmethod
    def multiplies(cls, node: OpNode) -> tuple[str, ...]:
        """Return the operands whose last axis counts the features of the one input; none where the node does more."""
        return ()

    @classmethod
    def absorbs(cls, record: Record) -> Absorb | None:
        """Return how a node's own tensors can divide the features of its result; None where they cannot."""
        return None

    @classmethod
    def passes(cls, node: OpNode) -> Passage | None:
        """Return the inputs from which a factor above 0 of the result may come; None where it may not."""
        return None

    @classmethod
    def writes(cls, node: OpNode) -> Mapping[str, int]:
        """Return the operands of which the result is a linear function, with the axis that counts its features."""
        return {}

    @classmethod
    def combines(cls, node: OpNode) -> bool:
        """Tell whether the result is a sum of the inputs, each times one number."""
        return False

    @classmethod
    def turns(cls, record: Record) -> bool:
        """Tell whether any rotation of the input's features is one of the result's, once ``weight`` is 1."""
        return False

    @classmethod
    def looks(cls, record: Record, index: int) -> bool | None:
        """Tell whether an input decides where attention looks; None: whoever reads the result tells."""
        return False

    @classmethod
    def cached(cls, record: Record) -> tuple[int, int] | None:
        """Return which inputs are the keys and the values that a cache keeps; None of kinds that have no cache."""
        return None

    @classmethod
    def operations(cls, node: OpNode) -> Operations | None:
        """Count the arithmetic of a node of this kind on its traced shapes; None where that is not known."""
        return None


class Arithmetic(ABC):
    """What a node becomes on chip: exact integer arithmetic, and a circuit of blocks."""

    @abstractmethod
    def reference(self, *inputs: Code) -> Code:
        """Compute the codes of the result from the codes of the inputs: vectorised, exact."""

    @abstractmethod
    def oracle(self, *inputs: Code) -> Code:
        """Compute the same on Python integers, one by one, written for reading."""

    @property
    @abstractmethod
    def foldings(self) -> Foldings:
        """Everything that cycles and hardware depend on but the lanes."""

    @cached_property
    def takes(self) -> tuple[StreamType, ...]:
        """Streams of its inputs at one lane, also of a view, which may be no block at all."""
        return self.circuit(1, 1, {}).takes

    @cached_property
    def gives(self) -> tuple[StreamType, ...]:
        """Streams of its results at one lane."""
        return self.circuit(1, 1, {}).gives

    @abstractmethod
    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        """Return the blocks by role (``""`` the operator itself) with the wires between them.

        Args:
            simd: lanes of every input. pe: lanes of the output. fifos: depth of the output FIFO by role.
        """

    def pointwise(self) -> Pointwise | None:
        """Return what is made of each code by itself; None of an operator that does more than that."""
        return None

    def settled(self) -> Mapping[str, Json]:
        """Return the attributes that building decided, such as the way to sum that ``auto`` chose."""
        return {}

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know of the numbers, one line each."""
        return ()


class InRow(Arithmetic):
    """Arithmetic whose blocks stand in a row, each with one input and one output."""

    @abstractmethod
    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the blocks by role in order of the stream; see :meth:`circuit`."""

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        return Circuit.chain(self.blocks(simd, pe, fifos))


class HardwareOp(Op, Arithmetic):
    """A kind of nodes that have exact integer arithmetic and RTL."""

    implicit: ClassVar[frozenset[str]] = frozenset()  # operands that need no format of their own

    @classmethod
    def builds(cls, record: Record) -> bool:
        """Tell whether a node of this kind has hardware; one that has none runs in float, whatever its formats."""
        return True

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        """Raise UnsupportedOp where a format of a node that has all of them is not one that hardware computes with."""
        for source in node.inputs:
            fmt = source.record.output.format
            assert fmt is not None
            activation_grid(fmt, source.params(), node.where())
        fmt = node.record.output.format
        assert fmt is not None
        produced_grid(fmt, node.params(), node.where())

    @classmethod
    @abstractmethod
    def from_node(cls, node: OpNode) -> Arithmetic:
        """Build from a node whose operands and result carry formats; ``mase.lowering`` alone calls this.

        It may read the node and what lies upstream of it, nothing else: operators are kept by that.

        Raises:
            UnsupportedOp: the formats or sizes have no exact hardware; says why.
        """


OPS: Registry[type[Op]] = Registry("op", "mase.ops")


def travel(node: OpNode) -> Travel:
    """Return the order in which the elements of a node's result travel on chip.

    The axis that the format's parameters name travels fastest. What comes and goes element by element, or only has
    another name, keeps the order of its input.
    """
    found, at = Travel.of(node.record.output.shape[1:], _of_sample(node)), node
    while at.kind in OPS and OPS[at.kind].in_order(at.record) and (source := _whole(at)) is not None:
        at = source
    if at is not node:
        come = Travel.of(at.record.output.shape[1:], _of_sample(at))
        return found if come.plain and found.plain else come
    return found


def by_pixels(edge: OpNode) -> bool:
    """Tell whether an image travels pixel by pixel, and its blocks lie along the channels."""
    shape, found = edge.record.output.shape[1:], travel(edge)
    wanted, fmt = Travel.of(shape, 0), edge.record.output.format
    assert fmt is not None
    if fmt.grid(edge.params(), edge.where()).block and edge.params().axis % (len(shape) + 1) != 1:
        return False
    return found == wanted or (found.plain and wanted.plain)


def _whole(node: OpNode) -> OpNode | None:
    """Return the first input with as many elements as the result; a smaller one is spread over it."""
    size = math.prod(node.record.output.shape)
    return next((source for source in node.inputs if math.prod(source.record.output.shape) == size), None)


def _of_sample(node: OpNode) -> int:
    axis = node.params().axis
    return axis - 1 if axis > 0 else axis


def fastest_axes(graph: Graph) -> dict[str, int]:
    """Return, by edge, the axis that travels fastest and along which blocks lie, the batch counted; -1 is the last.

    It is the axis that the first consumer which has one works along. Those that keep all axes ask the consumers of
    their own result, and where they have several inputs take the channels of images, else the last axis. Where nobody
    says, it is the axis that the producer gives its channels on, or takes its input along.
    """
    asked: dict[str, int | None] = {}
    for node in reversed(list(graph.nodes())):
        if node.kind != "output":
            asked[node.name] = _asked(node, asked)
    found: dict[str, int] = {}
    for node in graph.nodes():
        if node.kind == "output":
            continue
        axis, rank = asked[node.name], len(node.record.output.shape)
        if axis is None and node.kind in OPS:
            axis = OPS[node.kind].channels(node.record)
            if axis is None and node.inputs:
                axis = _carried(node, found[node.inputs[0].name])
        found[node.name] = -1 if axis is None or axis == rank - 1 else axis
    return found


def _asked(node: OpNode, asked: Mapping[str, int | None]) -> int | None:
    """Return the axis of a result that the first consumer with one works along."""
    rank = len(node.record.output.shape)
    for user in node.users:
        if user.kind not in OPS:
            continue
        op = OPS[user.kind]
        for index, source in enumerate(user.inputs):
            if source.name == node.name and (axis := op.contracts(user.record, index, rank)) is not None:
                return axis % rank
        wanted, wide = asked.get(user.name), len(user.record.output.shape)
        if wanted is None and len(user.inputs) > 1 and op.keeps_axes(user.record):
            wanted = 1 if wide == IMAGE else wide - 1  # its inputs have to agree
        if wanted is None:
            continue
        if op.keeps_axes(user.record) and len(user.record.output.shape) == rank:
            return wanted
        for axis in range(1, rank):
            if op.carried(user.record, node.record.output.shape, axis) == wanted:
                return axis
    return None


def _carried(node: OpNode, axis: int) -> int | None:
    """Return the axis of a result that one of input 0 becomes, or is beside as many others."""
    shape, op = node.inputs[0].record.output.shape, OPS[node.kind]
    found = op.carried(node.record, shape, axis % len(shape)) if shape else None
    same = len(shape) == len(node.record.output.shape)
    return axis % len(shape) if found is None and same and shape and not op.moves(node.record) else found


def moves(node: OpNode) -> bool:
    """Tell whether a node, of any kind, only moves elements: see :meth:`Op.moves`."""
    return node.kind in OPS and OPS[node.kind].moves(node.record)


def constant(node: OpNode) -> bool:
    """Tell whether a node, of any kind, gives a tensor that the model holds."""
    return node.kind in OPS and OPS[node.kind].constant


def view(node: OpNode) -> bool:
    """Tell whether the result of a node, of any kind, lies in the memory of its input: see :meth:`Op.view`."""
    return node.kind in OPS and OPS[node.kind].view(node.record)


def not_negative(node: OpNode) -> bool:
    """Tell whether a node, of any kind, is proven to give no negative value: see :meth:`Op.not_negative`."""
    return node.kind in OPS and OPS[node.kind].not_negative(node)


def builds(node: OpNode) -> bool:
    """Tell whether a node, of any kind, has hardware: see :meth:`HardwareOp.builds`."""
    if node.kind not in OPS:
        return False
    op = OPS[node.kind]
    return issubclass(op, HardwareOp) and op.builds(node.record)


def same_codes(a: OpNode, b: OpNode) -> bool:
    """Tell whether two tensors have one format, and equal codes stand for equal values, along whatever axis."""
    kinds = a.record.output.format, b.record.output.format
    if None in kinds or kinds[0] != kinds[1]:
        return False
    sides = [vars(replace(node.params(), axis=-1, axes=None)) for node in (a, b)]
    return all(_alike(value, sides[1][name]) for name, value in sides[0].items())


def _alike(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a.double(), b.double())
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def need(node: OpNode, *roles: str) -> None:
    """Raise GraphError when a node lacks a parameter."""
    for role in roles:
        if role not in node.record.operands:
            raise GraphError(
                f"{node.where()}: has no operand {role!r}; found: {', '.join(node.record.operands) or 'none'}"
            )


def one_of(node: OpNode, attr: str, allowed: Iterable[str], default: str | None = None) -> str:
    """Return an attribute that is one of a few words.

    Raises:
        GraphError: it is another one, or missing without a default.
    """
    found = node.record.attrs.get(attr, default)
    if found not in (names := sorted(allowed)):
        raise GraphError(f"{node.where()}: {attr} {found!r}; allowed: {', '.join(names)}")
    return str(found)


def an_axis(node: OpNode, attr: str, rank: int) -> None:
    """Raise GraphError when an attribute is not an axis of a tensor with ``rank`` axes."""
    axis = node.record.attrs.get(attr)
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise GraphError(f"{node.where()}: {attr} {axis!r}; allowed is an axis of {rank}")


def _span(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most >= MANY else f"{least} to {most}"
