"""What nodes compute by that scale and shift each element by constants of its place: y = round(m x + b) (hw/affine)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mase.blocks.affine import AffineFoldings, Scaling
from mase.blocks.slope import Slopes
from mase.dataflow.block import Block
from mase.dataflow.circuit import Circuit
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.stream import Travel
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode
from mase.ops.base import Pointwise, travel


@dataclass(frozen=True, eq=False)
class Scaled:
    """y = round(m x + b).

    Args:
        order: in which elements travel, on both sides. scaling: constants and rounding.
    """

    order: Travel
    scaling: Scaling

    @classmethod
    def of(cls, node: OpNode, scale: Tensor, shift: Tensor) -> Self:
        """Build for input 0 of a node.

        Args:
            scale, shift: float64, of any shape that broadcasts to a sample.

        Raises:
            UnsupportedOp: a constant is infinite or NaN, or no integers hold it.
        """
        order, x, y, scales, (scale, shift), mode = _placed(node, scale, shift)
        relu = node.record.attrs.get("activation") == "relu"
        return cls(order, Scaling.of(x, y, scales, scale, shift, relu, mode, node.where()))

    @classmethod
    def below(cls, node: OpNode, slope: Tensor) -> Self:
        """Build y = x where x is not negative, else slope * x; the slope as the constants of :meth:`of`."""
        order, x, y, scales, (slope,), mode = _placed(node, slope)
        return cls(order, Slopes.over(x, y, scales, slope, mode, node.where()))

    def reference(self, *inputs: Code) -> Code:
        """Compute codes: vectorised, exact."""
        rows = self.order.travelling(inputs[0], self.scaling.x.block)
        return self._held(self.scaling.out.apply(self.scaling.integers(rows)), inputs[0])

    def oracle(self, *inputs: Code) -> Code:
        """Compute the same on Python integers."""
        code = self.order.travelling(inputs[0], self.scaling.x.block)
        exps = None if code.exponent is None else code.exponent.flatten(0, 1).tolist()
        rows = [
            self.scaling.scalar(r % self.scaling.rows, row, None if exps is None else exps[r])
            for r, row in enumerate(code.mantissa.flatten(0, 1).tolist())
        ]
        mantissa = torch.tensor([m for m, _ in rows]).reshape(code.mantissa.shape)
        blocks = torch.tensor([e for _, e in rows]).reshape(*mantissa.shape[:2], -1) if rows[0][1] else None
        return self._held(Code(mantissa, blocks), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        """Return codes of the result as the tensor holds them, shaped as the input."""
        return self.order.held(y, x.mantissa.shape[1:], self.scaling.out.grid.block)

    @property
    def foldings(self) -> AffineFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        return self.scaling.foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        """Return the unit, and the normaliser behind it where the result has blocks."""
        return self.scaling.blocks(pe, fifos)

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        """Return the same, joined."""
        return Circuit.chain(self.blocks(simd, pe, fifos))

    def pointwise(self) -> Pointwise | None:
        """Return nothing: it depends on the place of an element."""
        return None

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know of the numbers."""
        return self.scaling.out.warnings


def _placed(
    node: OpNode, *constants: Tensor
) -> tuple[Travel, Grid, Grid, tuple[Tensor | None, Tensor | None], list[Tensor], str]:
    """Return order, grids and real scales of input 0 and result, the constants as elements travel, and the rounding."""
    source, record, where = node.inputs[0], node.record, node.where()
    x_format, y_format = source.record.output.format, record.output.format
    assert x_format is not None and y_format is not None
    x, y = activation_grid(x_format, source.params(), where), produced_grid(y_format, node.params(), where)
    scales = source.params().scale if x.scaled else None, node.params().scale if y.scaled else None
    order, shape = travel(source), record.output.shape[1:]
    placed = [order.travelling(Code(t.expand(1, *shape).contiguous())).mantissa[0] for t in constants]
    return order, x, y, scales, placed, record.attrs.get("rounding", "even")
