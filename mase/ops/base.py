"""Operators: one object, four truths (docs/design.md): arithmetic, netlist, cycles, resources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mase.errors import GraphError
from mase.formats import Code
from mase.graph import OpNode, Record
from mase.ops.grid import activation_grid, produced_grid
from mase.ops.operations import Operations
from mase.ops.work import Foldings, Work
from mase.registry import Registry
from mase.schedule import Schedule
from mase.stream import StreamType

LEAST_FIFO = 2  # a FIFO of depth 1 halves the rate
MANY = 1 << 30  # inputs, of a kind that takes any number


@dataclass(frozen=True, eq=False)
class MemoryImage:
    """Hold the words of a ROM: ``words`` as Python integers, word 0 first, each of ``width`` bits."""

    width: int
    words: Sequence[int]
    layout: str

    @property
    def depth(self) -> int:
        """Number of words."""
        return len(self.words)

    def text(self) -> str:
        """Return the ``$readmemh`` file: one hexadecimal word a line."""
        digits = -(-self.width // 4)
        return "".join(f"{word:0{digits}x}\n" for word in self.words)


class Op(ABC):
    """A typed kind of node: how it computes in float, and what its record must look like."""

    kind: ClassVar[str]
    arity: ClassVar[tuple[int, int]] = (1, 1)  # least and greatest number of inputs
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
    def operations(cls, node: OpNode) -> Operations | None:
        """Count the arithmetic of a node of this kind on its traced shapes; None where that is not known."""
        return None


@dataclass(frozen=True, eq=False)
class Block(ABC):
    """One RTL instance: a stream in, a stream out, exact arithmetic, exact cycles.

    Args:
        fifo: depth of the output FIFO, in beats.
    """

    fifo: int = field(default=LEAST_FIFO, kw_only=True)
    sv_module: ClassVar[str]

    @property
    @abstractmethod
    def stream_in(self) -> StreamType:
        """Stream that the block takes."""

    @property
    @abstractmethod
    def stream_out(self) -> StreamType:
        """Stream that the block gives."""

    @abstractmethod
    def compute(self, x: Code) -> Code:
        """Return the codes that leave, exactly as the RTL computes them."""

    @abstractmethod
    def schedule(self) -> Schedule:
        """Return the firing program."""

    @abstractmethod
    def sv_params(self) -> Mapping[str, int]:
        """Return the module's parameters but those that name memories."""

    def memories(self) -> Mapping[str, MemoryImage]:
        """Return ROM images by the parameter that names their file."""
        return {}

    @abstractmethod
    def work(self) -> Work:
        """Return what the block is made of."""


class HardwareOp(Op):
    """A typed node that has exact integer arithmetic and RTL: one or more blocks in a row."""

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
    def from_node(cls, node: OpNode) -> Self:
        """Build from a node whose operands and result carry formats; ``mase.lowering`` alone calls this.

        It may read the node and what lies upstream of it, nothing else: operators are kept by that.

        Raises:
            UnsupportedOp: the formats or sizes have no exact hardware; says why.
        """

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

    @property
    def takes(self) -> StreamType:
        """Stream of its input at one lane."""
        return next(iter(self.blocks(1, 1, {}).values())).stream_in

    @abstractmethod
    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the RTL blocks in order of the stream, by role (``""`` the operator itself).

        Args:
            simd: input lanes. pe: output lanes. fifos: depth of the output FIFO by role.
        """

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know of the numbers, one line each."""
        return ()


OPS: Registry[type[Op]] = Registry("op", "mase.ops")


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


def pack_words(codes: npt.NDArray[np.int64], width: int) -> list[int]:
    """Pack ``[words, lanes]`` integers into words of ``lanes * width`` bits, lane 0 lowest."""
    mask = (1 << width) - 1
    return [sum((int(code) & mask) << i * width for i, code in enumerate(word)) for word in codes]
