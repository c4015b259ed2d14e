"""What sums and products of two tensors share: which operand is a constant, and where it stands (hw/pair)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.pair import A, B, Pair, PairFoldings, Pairing, Scale
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.schedule import IN, OUT
from mase.dataflow.stream import Travel
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import HardwareOp, one_of, travel
from mase.ops.operations import Operations, each


@dataclass(frozen=True, eq=False)
class Elementwise(HardwareOp):
    """y = f(a, b). One input alone stands beside operand ``other`` or the number ``value`` (reverse: that one is a).

    Two inputs of one shape have hardware, but for quotients; a ReLU may be fused in (attribute activation).

    Args:
        name: of the node. shape: of a sample. order: in which elements of the result travel.
        sides: order and grid of a and of b. pairing: the sum or product. out: its rounding.
        swapped: input 0 of the node is b.
    """

    arity: ClassVar[tuple[int, int]] = (1, 2)
    functions: ClassVar[Mapping[str, Callable[[Any, Any], Tensor]]]  # a tensor or a number on either side
    usual: ClassVar[str]  # the function that attributes need not name
    built: ClassVar[frozenset[str]]  # functions that have hardware

    name: str
    shape: tuple[int, ...]
    order: Travel
    sides: tuple[tuple[Travel, Grid], tuple[Travel, Grid]]
    pairing: Pairing
    out: Output
    swapped: bool

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
        alone = "other" in record.operands or "value" in record.attrs
        return not alone and record.attrs.get("function", cls.usual) in cls.built

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
    def check_formats(cls, node: OpNode) -> None:
        super().check_formats(node)
        cls._sides(node)

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        record, where = node.record, node.where()
        (come_a, a, scale_a), (come_b, b, scale_b) = cls._sides(node)
        assert record.output.format is not None
        y = produced_grid(record.output.format, node.params(), where)
        scale = Scale(scale_a, scale_b, node.params().scale if y.scaled else None)
        pairing, out = cls.paired(record, a, b, y, scale, record.attrs.get("rounding", "even"), where)
        sides, swapped = ((come_a, a), (come_b, b)), _swapped(record)
        return cls(node.name, record.output.shape[1:], travel(node), sides, pairing, out, swapped)

    @classmethod
    def _sides(cls, node: OpNode) -> list[tuple[Travel, Grid, Tensor | None]]:
        """Return order, grid and scale of a and of b.

        Raises:
            UnsupportedOp: they are not of the result's shape, or travel otherwise.
        """
        where, shape, order = node.where(), node.record.output.shape, travel(node)
        sources = node.inputs[::-1] if _swapped(node.record) else node.inputs
        for source in sources:
            if source.record.output.shape != shape:
                raise UnsupportedOp(
                    f"{where}: the shapes {source.record.output.shape} and {shape} differ; "
                    "hardware takes two tensors of the result's shape"
                )
        return [cls._side(source, order, where) for source in sources]

    @staticmethod
    def _side(source: OpNode, order: Travel, where: str) -> tuple[Travel, Grid, Tensor | None]:
        """Return the order, the grid and the scale of an input; refuse one that travels otherwise than the result."""
        fmt, come = source.record.output.format, travel(source)
        assert fmt is not None
        grid = activation_grid(fmt, source.params(), where)
        if come.strides != order.strides:
            raise UnsupportedOp(
                f"{where}: input {source.name!r} and the result travel in different orders, axes {come.order} and "
                f"{order.order} of a sample; allowed are inputs whose readers work along one axis"
            )
        if grid.block and come.cols != order.cols:
            raise UnsupportedOp(
                f"{where}: blocks of {source.name!r} lie along rows of {come.cols}, and those of the result along "
                f"{order.cols}; allowed are equal ones, or a format without blocks"
            )
        return come, grid, source.params().scale if grid.scaled else None

    def reference(self, *inputs: Code) -> Code:
        t = self._core.integers(*self._rows(inputs))
        return self.order.held(self.out.apply(t), self.shape, self.out.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        a, b = self._rows(inputs)
        shape, cols = a.mantissa.shape, self.order.cols
        exps = [
            (operand.levels(code) - operand.shift).reshape(-1, cols).tolist()
            for operand, code in ((self.pairing.a, a), (self.pairing.b, b))
        ]
        mantissas, exponents = [], []
        for x, e, y, f in zip(
            a.mantissa.reshape(-1, cols).tolist(), exps[0], b.mantissa.reshape(-1, cols).tolist(), exps[1], strict=True
        ):
            m, blocks = self.out.scalar([self.pairing.scalar(*pair) for pair in zip(x, e, y, f, strict=True)])
            mantissas.append(m)
            exponents.append(blocks)
        exponent = None if not self.out.grid.block else torch.tensor(exponents).reshape(*shape[:-1], -1)
        return self.order.held(Code(torch.tensor(mantissas).reshape(shape), exponent), self.shape, self.out.grid.block)

    def _rows(self, inputs: tuple[Code, ...]) -> list[Code]:
        """Return a and b as they travel, ``[samples, rows, cols]`` of the result."""
        out = []
        for code, (come, grid) in zip(inputs[::-1] if self.swapped else inputs, self.sides, strict=True):
            moved = come.travelling(code, grid.block)
            shape = moved.mantissa.shape[0], self.order.rows, self.order.cols
            out.append(Code(moved.mantissa.reshape(shape), moved.exponent))  # of blocks the rows are equal
        return out

    @property
    def _core(self) -> Pair:
        return Pair(self.order.rows, self.order.cols, 1, self.pairing, self.out)

    @property
    def foldings(self) -> PairFoldings:
        return self._core.foldings

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        rows, cols = self.order.rows, self.order.cols
        core = Pair(rows, cols, pe, self.pairing, self.out, fifo=fifos.get("", LEAST_FIFO))
        blocks: dict[str, Block] = {"": core}
        wires, last = list[Wire](), Pin("", OUT)
        if self.out.raw:
            blocks["normalise"] = self.out.normaliser(
                rows, cols, pe, core.raw_width, fifos.get("normalise", LEAST_FIFO)
            )
            wires, last = [Wire(last, Pin("normalise", IN))], Pin("normalise", OUT)
        pins = Pin("", A), Pin("", B)
        return Circuit(blocks, tuple(wires), pins[::-1] if self.swapped else pins, (last,))

    def warnings(self) -> tuple[str, ...]:
        return self.out.warnings


def _swapped(record: Record) -> bool:
    return bool(record.attrs.get("reverse", False))
