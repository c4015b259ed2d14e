"""Index of the greatest element along an axis (hw/argmax)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.blocks.argmax import Argmax, ArgmaxFoldings, first_greatest, index_bits
from mase.dataflow.block import Block
from mase.dataflow.grid import activation_grid
from mase.dataflow.stream import Travel
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, HardwareOp, InRow, an_axis, travel
from mase.ops.operations import Operations, each


@OPS.add("argmax")
@dataclass(frozen=True, eq=False)
class ArgmaxOp(InRow, HardwareOp):
    """y = index of the greatest element along an axis; of equal ones the lowest.

    Attributes: axis, the batch counted, and keepdim. The result is an integer, of as many bits as the axis needs.

    Args:
        order: in which elements of the input travel. shape: of a sample of the result. x: grid of the input.
    """

    kind: ClassVar[str] = "argmax"
    family: ClassVar[Family] = "function"

    order: Travel
    shape: tuple[int, ...]
    x: Grid

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0].argmax(record.attrs["axis"], keepdim=bool(record.attrs.get("keepdim", False)))

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        an_axis(node, "axis", len(node.inputs[0].record.output.shape))
        if node.record.attrs["axis"] % len(node.inputs[0].record.output.shape) == 0:
            raise GraphError(f"{node.where()}: axis 0 is the batch; allowed are the axes of a sample")

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.inputs[0].record.output.shape)

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        return int(record.attrs["axis"]) % rank

    @classmethod
    def index_format(cls, node: OpNode) -> str:
        source = node.inputs[0].record.output.shape
        return f"ufixed{index_bits(source[node.record.attrs['axis']])}.0"

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        return True

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        source = node.inputs[0]
        assert source.record.output.format is not None
        activation_grid(source.record.output.format, source.params(), node.where())
        order, shape = travel(source), source.record.output.shape[1:]
        axis = node.record.attrs["axis"] % (1 + len(shape)) - 1
        if order != Travel.of(shape, axis) and not (order.plain and Travel.of(shape, axis).plain):
            raise UnsupportedOp(
                f"{node.where()}: axis {axis + 1} is not the one that travels fastest; allowed is that one: another "
                "consumer of the same tensor works along another axis"
            )

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        source = node.inputs[0]
        assert source.record.output.format is not None
        x = activation_grid(source.record.output.format, source.params(), node.where())
        return cls(travel(source), node.record.output.shape[1:], x)

    def reference(self, *inputs: Code) -> Code:
        rows = self.order.travelling(inputs[0], self.x.block)
        found = first_greatest(self.x.compared(rows))
        return Code(found.reshape(-1, *self.shape))

    def oracle(self, *inputs: Code) -> Code:
        code, found = self.order.travelling(inputs[0], self.x.block), []
        exps = None if code.exponent is None else code.exponent.flatten(0, 1).tolist()
        for r, row in enumerate(code.mantissa.flatten(0, 1).tolist()):
            if exps is not None:
                row = [x << exps[r][i // self.x.block] - self.x.base for i, x in enumerate(row)]
            found.append(row.index(max(row)))
        return Code(torch.tensor(found).reshape(-1, *self.shape))

    @property
    def foldings(self) -> ArgmaxFoldings:
        return self._block(max(1, self.x.block), 2).foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return {"": self._block(simd, fifos.get("", 2))}

    def _block(self, lanes: int, fifo: int) -> Argmax:
        out = Travel.of(self.shape)
        return Argmax(self.order.rows, self.order.cols, lanes, self.x, (out.rows, out.cols), fifo=fifo)
