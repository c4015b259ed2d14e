"""Operators that are sums of products with weights: what a node says, as the sums of the linear unit (hw/linear)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from mase.blocks.linear import LinearBlock, LinearFoldings
from mase.blocks.sums import Formatted, Sums
from mase.dataflow.block import Block
from mase.graph import Json, OpNode
from mase.ops.base import Family, HardwareOp, InRow


@dataclass(frozen=True, eq=False)
class Mac(Sums, InRow, HardwareOp):
    """Sums of products whose weights and bias are those of a node."""

    family: ClassVar[Family] = "compute"
    implicit: ClassVar[frozenset[str]] = frozenset({"bias"})  # lives on the accumulator's grid
    weights: ClassVar[tuple[str, ...]] = ("weight", "bias")

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name!r}"

    # -- from a node ------------------------------------------------------------------------------------------------

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        super().check_formats(node)
        weight = node.record.operands["weight"].format
        assert weight is not None
        weight.weight_grid(node.params("weight"), node.where())

    @classmethod
    def operands(cls, node: OpNode) -> tuple[tuple[Formatted, Formatted, Formatted], Tensor, Tensor | None]:
        """Return the formats of input, weight and result, each with its parameters, and the real weight and bias."""
        record, source = node.record, node.inputs[0]
        x, w, y = source.record.output.format, record.operands["weight"].format, record.output.format
        assert x is not None and w is not None and y is not None
        bias = node.tensor("bias") if "bias" in record.operands else None
        if bias is not None and (own := record.operands["bias"].format) is not None:
            bias = own.quantize(bias, node.params("bias"))
        formats = (x, source.params()), (w, node.params("weight")), (y, node.params())
        return formats, node.tensor("weight"), bias

    def settled(self) -> Mapping[str, Json]:
        return {"accumulation": self.accumulation}

    # -- hardware ---------------------------------------------------------------------------------------------------

    @cached_property
    def core(self) -> LinearFoldings:
        """All that cycles and hardware of the unit depend on but the lanes."""
        return LinearFoldings.of(self)

    def unit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the unit that sums, and the normaliser behind it where the result has blocks."""
        core = LinearBlock(self, simd, pe, fifo=fifos.get("", 2))
        if not self.out.raw:
            return {"": core}
        fifo = fifos.get("normalise", 2)
        return {"": core, "normalise": self.out.normaliser(self.rows, self.outputs, pe, self.raw_width, fifo)}

    def warnings(self) -> tuple[str, ...]:
        return self.out.warnings
