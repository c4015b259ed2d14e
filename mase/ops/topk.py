"""The greatest elements along an axis, or their indices (hw/topk)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mase.blocks.topk import Topk, TopkFoldings, greatest, index_bits
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.grid import activation_grid, stream_grid
from mase.dataflow.stream import Travel
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, HardwareOp, InRow, an_axis, one_of, travel
from mase.ops.operations import Operations, each

VALUES, INDICES = "values", "indices"
PARTS = {0: VALUES, 1: INDICES, VALUES: VALUES, INDICES: INDICES}  # as a model takes them


def _lifted(call: Any) -> Any:  # of mase.frontend.calls, which the front door knows
    from mase.frontend.calls import Lifted, Opaque

    x, k = call.tensor(0, "input"), call.plain(1, "k")
    axis, result = call.axis(2, "dim", x, -1), PARTS.get(call.part)
    if result is None or axis == 0 or not isinstance(k, int):
        raise Opaque("it gives two tensors, or looks along the batch, or for a number that is free")
    if not call.plain(3, "largest", True) or not call.plain(4, "sorted", True):
        raise Opaque("it gives the least elements, or in any order")
    return Lifted("topk", [x], {"k": k, "axis": axis, "result": result})


@OPS.add("topk")
@dataclass(frozen=True, eq=False)
class TopkOp(InRow, HardwareOp):
    """y = the greatest k elements along an axis, the greatest first, or their indices; of equal ones the lowest first.

    Attributes: k, axis, the batch counted, and result, ``values`` or ``indices``. Values have the format of the input,
    indices are integers of as many bits as the axis needs.

    Args:
        order: in which elements of the input travel. shape: of a sample of the result. x: grid of the input.
        k: results of a row. indices: they leave, else the elements.
    """

    kind: ClassVar[str] = "topk"
    family: ClassVar[Family] = "function"
    calls: ClassVar[Mapping[str, Callable[..., object]]] = {"topk": _lifted}

    order: Travel
    shape: tuple[int, ...]
    x: Grid
    k: int
    indices: bool

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        attrs = record.attrs
        places = greatest(inputs[0], attrs["k"], attrs["axis"])
        return places if attrs["result"] == INDICES else inputs[0].gather(attrs["axis"], places)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        shape, attrs = node.inputs[0].record.output.shape, node.record.attrs
        an_axis(node, "axis", len(shape))
        one_of(node, "result", (VALUES, INDICES))
        if attrs["axis"] % len(shape) == 0:
            raise GraphError(f"{node.where()}: axis 0 is the batch; allowed are the axes of a sample")
        k, most = attrs.get("k"), shape[attrs["axis"]]
        if not isinstance(k, int) or not 1 <= k <= most:
            raise GraphError(f"{node.where()}: k {k!r}; allowed is a number from 1 to {most}")

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.inputs[0].record.output.shape, node.record.attrs["k"])

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        return int(record.attrs["axis"]) % rank

    @classmethod
    def keeps_axes(cls, record: Record) -> bool:
        return True

    @classmethod
    def moves(cls, record: Record) -> bool:
        return bool(record.attrs["result"] == VALUES)

    @classmethod
    def index_format(cls, node: OpNode) -> str:
        if node.record.attrs["result"] == VALUES:
            return ""
        return f"ufixed{index_bits(node.inputs[0].record.output.shape[node.record.attrs['axis']])}.0"

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        return bool(node.record.attrs["result"] == INDICES)

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        cls._grid(node)
        source = node.inputs[0]
        shape, axis = source.record.output.shape[1:], node.record.attrs["axis"] % len(source.record.output.shape) - 1
        results = node.record.output.shape[1:]
        for one, size, what in ((source, shape, "input"), (node, results, "result")):
            order, wanted = travel(one), Travel.of(size, axis)
            if order != wanted and not (order.plain and wanted.plain and order.cols == wanted.cols):
                raise UnsupportedOp(
                    f"{node.where()}: axis {axis + 1} is not the one along which the {what} travels; allowed is the "
                    "last axis, or for values the one that all consumers of the tensor work along"
                )

    @classmethod
    def _grid(cls, node: OpNode) -> Grid:
        """Return the grid of the input as the unit takes it; values leave as they came."""
        source, where = node.inputs[0], node.where()
        fmt = source.record.output.format
        assert fmt is not None
        if node.record.attrs["result"] == INDICES:
            return activation_grid(fmt, source.params(), where)
        grid = stream_grid(fmt, source.params(), where)
        if grid.block or grid.pattern is not None:
            raise UnsupportedOp(
                f"{where}: the greatest values of {fmt} leave as they came; allowed are fixed point and integers "
                "without blocks, or indices"
            )
        return grid

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        attrs = node.record.attrs
        shape, indices = node.record.output.shape[1:], attrs["result"] == INDICES
        return cls(travel(node.inputs[0]), shape, cls._grid(node), int(attrs["k"]), indices)

    def reference(self, *inputs: Code) -> Code:
        (found,) = self._block(LEAST_FIFO).compute(self.order.travelling(inputs[0], self.x.block))
        return self._held(found)

    def oracle(self, *inputs: Code) -> Code:
        code, found = self.order.travelling(inputs[0], self.x.block), []
        exps = None if code.exponent is None else code.exponent.flatten(0, 1).tolist()
        for r, row in enumerate(code.mantissa.flatten(0, 1).tolist()):
            values = row
            if exps is not None:
                values = [x << exps[r][i // self.x.block] - self.x.base for i, x in enumerate(row)]
            places = sorted(range(len(row)), key=lambda i: (-values[i], i))[: self.k]  # used at once
            found.append(places if self.indices else [row[i] for i in places])
        return self._held(Code(torch.tensor(found).reshape(-1, self.order.rows, self.k)))

    def _held(self, code: Code) -> Code:
        """Return codes of the result as the tensor holds them."""
        axes = (*(self.order.axes[i] for i in self.order.order[:-1]), self.k)
        back = [self.order.order.index(i) for i in range(len(axes))]
        mantissa = code.mantissa.reshape(-1, *axes).permute(0, *(1 + i for i in back))
        return Code(mantissa.reshape(-1, *self.shape).contiguous())

    @property
    def foldings(self) -> TopkFoldings:
        return self._block(LEAST_FIFO).foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return {"": self._block(fifos.get("", LEAST_FIFO))}

    def _block(self, fifo: int) -> Topk:
        return Topk(self.order.rows, self.order.cols, self.k, self.x, self.indices, fifo=fifo)
