"""Flatten and reshape: the same elements in the same order, in other rows (hw/common/mase_stream_converter)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Block, HardwareOp
from mase.ops.grid import Grid
from mase.ops.width_converter import WidthConverter
from mase.ops.work import Count, Foldings, Lanes, Work, ceil_div, tile_lanes
from mase.stream import StreamType


@dataclass(frozen=True)
class LayoutFoldings(Foldings):
    """A change of shape before it is folded; its lanes are those of its neighbours, so the search prices it as free.

    Args:
        before, after: (rows, cols). width, block: of the elements.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    width: int
    block: int

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(max(self.before[1], self.after[1]), self.block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        """Return the beats of the longer side: what a converter between such neighbours takes at least."""
        (rows_in, cols_in), (rows_out, cols_out) = self.before, self.after
        return np.maximum(rows_in * ceil_div(cols_in, simd), rows_out * ceil_div(cols_out, pe))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        return {}


@OPS.add("layout")
@dataclass(frozen=True, eq=False)
class Layout(HardwareOp):
    """y = x in another shape; attrs ``shape`` is one sample's new shape. Input and result share format and parameters.

    Args:
        name: of the node. before, after: (rows, cols) of one sample. shape: of one sample. grid: of both sides.
    """

    kind: ClassVar[str] = "layout"

    name: str
    before: tuple[int, int]
    after: tuple[int, int]
    shape: tuple[int, ...]
    grid: Grid

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *record.attrs["shape"])

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        shape, found = node.record.attrs["shape"], node.inputs[0].record.output.shape
        if math.prod(shape) != math.prod(found[1:]):
            raise GraphError(f"{node.where()}: {found[1:]} cannot become {tuple(shape)}")

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        source, record = node.inputs[0], node.record
        x_type, y_type = source.record.output, record.output
        if x_type.format != y_type.format:
            raise UnsupportedOp(
                f"{node.where()}: {x_type.format} cannot become {y_type.format} here; a requantize node can"
            )
        assert y_type.format is not None
        grid = Grid.of(y_type.format, node.params(), node.where())
        before = (math.prod(x_type.shape[1:-1]), x_type.shape[-1])
        after = (math.prod(y_type.shape[1:-1]), y_type.shape[-1])
        if grid.block and before[1] != after[1] and (before[1] % grid.block or after[1] % grid.block):
            raise UnsupportedOp(
                f"{node.where()}: blocks of {grid.block} do not tile rows of {before[1]} and of {after[1]}; "
                "allowed are multiples of the block, or a format without blocks"
            )
        return cls(node.name, before, after, y_type.shape[1:], grid)

    def reference(self, *inputs: Code) -> Code:
        code, n = inputs[0], inputs[0].mantissa.shape[0]
        if code.exponent is None:
            return Code(code.mantissa.reshape(n, *self.shape))
        blocks = -(-self.shape[-1] // self.grid.block)
        return Code(code.mantissa.reshape(n, *self.shape), code.exponent.reshape(n, *self.shape[:-1], blocks))

    def oracle(self, *inputs: Code) -> Code:
        return self.reference(*inputs)

    @property
    def foldings(self) -> LayoutFoldings:
        return LayoutFoldings(self.before, self.after, self.grid.width, self.grid.block)

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        source, target = StreamType(*self.before, simd, self.grid), StreamType(*self.after, pe, self.grid)
        if source == target:
            return {}
        return {"": WidthConverter(source, target, fifo=fifos.get("", 2))}
