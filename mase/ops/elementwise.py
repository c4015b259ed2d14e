"""What sums and products share: two tensors (hw/pair), or one beside a constant (hw/affine)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.pair import Pairing, Scale
from mase.dataflow.circuit import Circuit
from mase.dataflow.work import Foldings
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import HardwareOp, one_of
from mase.ops.joined import Joined
from mase.ops.operations import Operations, each
from mase.ops.scaled import Scaled


@dataclass(frozen=True, eq=False)
class Elementwise(HardwareOp):
    """y = f(a, b). One input alone stands beside operand ``other`` or the number ``value`` (reverse: that one is a).

    A ReLU may be fused in (attribute activation).

    Args:
        core: what computes.
    """

    arity: ClassVar[tuple[int, int]] = (1, 2)
    implicit: ClassVar[frozenset[str]] = frozenset({"other"})  # part of the constants
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]]  # a tensor or a number on either side
    usual: ClassVar[str]  # the function that attributes need not name
    built: ClassVar[frozenset[str]]  # functions of two inputs that have hardware
    lines: ClassVar[frozenset[tuple[str, bool]]]  # functions of a constant that have, and whether the constant is a

    core: Joined | Scaled

    @classmethod
    def compute(cls, record: Record, operands: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute in float."""
        attrs = record.attrs
        other = inputs[1] if len(inputs) == 2 else operands.get("other", attrs.get("value"))
        a, b = (other, inputs[0]) if attrs.get("reverse") else (inputs[0], other)
        y = cls.functions[attrs.get("function", cls.usual)](a, b)
        return y.relu() if attrs.get("activation") == "relu" else y

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        one_of(node, "function", cls.functions, cls.usual)
        given = [len(node.inputs) == 2, "other" in node.record.operands, "value" in node.record.attrs]
        if sum(given) != 1:
            raise GraphError(
                f"{node.where()}: has {sum(given)} second operands; allowed is 1: an input, other or value"
            )

    @classmethod
    def builds(cls, record: Record) -> bool:
        function = record.attrs.get("function", cls.usual)
        return (function, swapped(record)) in cls.lines if _alone(record) else function in cls.built

    @classmethod
    def epilogues(cls, record: Record) -> frozenset[str]:
        return frozenset({"relu"}) if cls.builds(record) and "activation" not in record.attrs else frozenset()

    @classmethod
    @abstractmethod
    def paired(
        cls, record: Record, a: Grid, b: Grid, y: Grid, scale: Scale, mode: str, where: str
    ) -> tuple[Pairing, Output]:
        """Return the arithmetic of grids a and b into y."""

    @classmethod
    @abstractmethod
    def line(cls, record: Record, constant: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, float64, that are the same as the function beside a constant."""

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        super().check_formats(node)
        cls._core(node)

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        return cls(cls._core(node))

    @classmethod
    def _core(cls, node: OpNode) -> Joined | Scaled:
        """Build what computes.

        Raises:
            UnsupportedOp: shapes, orders of travel or numbers have no hardware; says why.
        """
        record, where = node.record, node.where()
        if _alone(record):
            return Scaled.of(node, *cls.line(record, _constant(node)))
        mode = record.attrs.get("rounding", "even")
        return Joined.of(node, lambda a, b, y, scale: cls.paired(record, a, b, y, scale, mode, where), swapped(record))

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*inputs)

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*inputs)

    @property
    def foldings(self) -> Foldings:
        return self.core.foldings

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        return self.core.circuit(simd, pe, fifos)

    def warnings(self) -> tuple[str, ...]:
        return self.core.warnings()


def _alone(record: Record) -> bool:
    return "other" in record.operands or "value" in record.attrs


def swapped(record: Record) -> bool:
    """Tell whether the constant, or input 1, stands before input 0."""
    return bool(record.attrs.get("reverse", False))


def _constant(node: OpNode) -> Tensor:
    """Return the constant beside the input of a node, in float64, in a shape that broadcasts to a sample.

    Raises:
        UnsupportedOp: the constant differs between samples, or the input is smaller than the result.
    """
    record, shape = node.record, node.record.output.shape
    found = node.tensor("other").double() if "other" in record.operands else None
    constant = torch.tensor(float(record.attrs["value"])).double() if found is None else found
    come, own = node.inputs[0].record.output.shape, tuple(constant.shape)
    if come != shape:
        raise UnsupportedOp(
            f"{node.where()}: the constant of shape {own} spreads the input of shape {come} over {shape}; "
            "allowed are constants that spread over the input"
        )
    if len(own) < len(shape):
        return constant
    if own[0] != 1:
        raise UnsupportedOp(
            f"{node.where()}: the constant of shape {own} differs between samples; allowed is one for all samples"
        )
    return constant[0]
