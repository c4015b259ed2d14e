"""From one format to another, element by element, with one rounding (hw/requantize)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.requantize import RequantizeBlock, RequantizeFoldings, Rescaling, ceiling
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit
from mase.dataflow.grid import activation_grid, produced_grid, stream_grid
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.width_converter import ConverterFoldings, WidthConverter
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import ADAPTER, OPS, Arithmetic, Family, HardwareOp, InRow, Pointwise, same_codes, travel
from mase.ops.operations import Operations, each

Real = float  # inside the class the name means how the kind computes


@OPS.add("requantize")
@dataclass(frozen=True, eq=False)
class Requantize(Rescaling, InRow, HardwareOp):
    """y = round(m * min(x << e, ceiling)).

    Args:
        order: in which elements travel, on both sides.
    """

    kind: ClassVar[str] = "requantize"
    family: ClassVar[Family] = "format-change"

    order: Travel

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0]

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        if _unchanged(node):
            return
        super().check_formats(node)
        cls.of(node)  # two formats that have hardware may lie too far apart

    @classmethod
    def from_node(cls, node: OpNode) -> Arithmetic:
        return Unchanged.of(node) if _unchanged(node) else cls.of(node)

    @classmethod
    def of(cls, node: OpNode, relu: bool = False, most: Real = math.inf) -> Self:
        """Build for the input and the result of a node.

        Args:
            relu: negative values become 0. most: greater ones become this, which is above 0.
        """
        source, record, where = node.inputs[0], node.record, node.where()
        x_type, y_type = source.record.output, record.output
        assert x_type.format is not None and y_type.format is not None
        x = activation_grid(x_type.format, source.params(), where)
        y = produced_grid(y_type.format, node.params(), where)
        top = x.digits if x.block else max(-x.low, x.high)
        scale = source.params().scale if x.scaled else None
        target = node.params().scale if y.scaled else None
        out = Output.of(y, scale, target, x.unit, top, relu, record.attrs.get("rounding", "even"), where)
        order = travel(source)
        return cls(node.name, order.rows, order.cols, x, out, ceiling(most, x, where), order)

    def reference(self, *inputs: Code) -> Code:
        rows = self.order.travelling(inputs[0], self.x.block)
        return self._held(self.out.apply(self.integers(rows)), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        """Return codes of the result as the tensor holds them, shaped as the input."""
        return self.order.held(y, x.mantissa.shape[1:], self.out.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        code = self.order.travelling(inputs[0], self.x.block)
        rows = code.mantissa.reshape(-1, self.cols).tolist()
        exps = None if code.exponent is None else code.exponent.reshape(len(rows), -1).tolist()
        mantissas, exponents = [], []
        for r, row in enumerate(rows):
            if exps is not None:
                row = [x << exps[r][i // self.x.block] - self.x.base for i, x in enumerate(row)]
            m, e = self.out.scalar([min(x, self.ceiling) for x in row] if self.ceiling else row)
            mantissas.append(m)
            exponents.append(e)
        shape = code.mantissa.shape[:-1]
        exponent = None if not self.out.grid.block else torch.tensor(exponents).reshape(*shape, -1)
        return self._held(Code(torch.tensor(mantissas).reshape(*shape, self.cols), exponent), inputs[0])

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name!r}"

    @cached_property
    def foldings(self) -> RequantizeFoldings:
        return RequantizeFoldings.of(self)

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        core = RequantizeBlock(self, pe, fifo=fifos.get("", 2))
        if not self.out.raw:
            return {"": core}
        fifo = fifos.get("normalise", 2)
        return {"": core, "normalise": self.out.normaliser(self.rows, self.cols, pe, self.raw_width, fifo)}

    def pointwise(self) -> Pointwise | None:
        if self.x.block or (self.out.raw and self.out.grid.signs is None):
            return None
        out = self.out
        return Pointwise(
            self.order, self.x, out.grid, lambda codes: out.apply(self.integers(Code(codes))).mantissa, rising=True
        )

    def warnings(self) -> tuple[str, ...]:
        return self.out.warnings


@dataclass(frozen=True, eq=False)
class Unchanged(Arithmetic):
    """y = x: an adapter whose input comes as its reader takes it.

    Args:
        order: in which elements travel, on both sides. grid: of both.
    """

    order: Travel
    grid: Grid

    @classmethod
    def of(cls, node: OpNode) -> Self:
        """Build for a node."""
        fmt = node.record.output.format
        assert fmt is not None
        return cls(travel(node), stream_grid(fmt, node.params(), node.where()))

    def reference(self, *inputs: Code) -> Code:
        return inputs[0]

    def oracle(self, *inputs: Code) -> Code:
        return inputs[0]

    @cached_property
    def takes(self) -> tuple[StreamType, ...]:
        return (self.order.stream(1, self.grid),)

    @cached_property
    def gives(self) -> tuple[StreamType, ...]:
        return (self.order.stream(1, self.grid),)

    @property
    def foldings(self) -> ConverterFoldings:
        return ConverterFoldings.of(self.order.stream(1, self.grid))

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        source, target = self.order.stream(simd, self.grid), self.order.stream(pe, self.grid)
        if source == target:
            return Circuit.chain({})
        return Circuit.chain({"": WidthConverter(source, target, fifo=fifos.get("", LEAST_FIFO))})


def _unchanged(node: OpNode) -> bool:
    """Tell whether an adapter has nothing to do."""
    return bool(node.record.attrs.get(ADAPTER, False)) and same_codes(node.inputs[0], node)
