"""Counted agreements in place of products, where weights are binary and inputs are signs (hw/popcount)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mase.blocks.linear import LinearBlock, LinearFoldings
from mase.blocks.pad import Pad
from mase.blocks.popcount import PopcountBlock, PopcountFoldings, counts, no_zero
from mase.dataflow.block import Block
from mase.dataflow.circuit import Circuit
from mase.dataflow.work import Foldings
from mase.formats import Code
from mase.graph import Json
from mase.lowering import ALTERNATIVES
from mase.ops.base import Arithmetic
from mase.ops.mac import Mac


@dataclass(frozen=True, eq=False)
class Popcount(Arithmetic):
    """Sums of products whose unit counts: sum x w = 2 * (how many agree) - (how many x are not 0).

    Args:
        core: the operator. zeros: an input may be 0, as in the border of an image.
    """

    core: Mac
    zeros: bool

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*inputs)

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*inputs)

    @property
    def foldings(self) -> Foldings:
        found: Any = self.core.foldings  # of a unit alone, or of one behind others, which calls it its core
        counting = PopcountFoldings.counting(self.core, self.zeros)
        return counting if isinstance(found, LinearFoldings) else replace(found, core=counting)

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        found = self.core.circuit(simd, pe, fifos)
        return replace(found, blocks={role: self._counting(block) for role, block in found.blocks.items()})

    def _counting(self, block: Block) -> Block:
        if not isinstance(block, LinearBlock):
            return block
        return PopcountBlock(block.sums, block.simd, block.pe, self.zeros, fifo=block.fifo)

    def settled(self) -> Mapping[str, Json]:
        return self.core.settled()

    def warnings(self) -> tuple[str, ...]:
        return self.core.warnings()


@ALTERNATIVES.add("popcount")
def popcount(op: Arithmetic) -> Arithmetic | None:
    """Return the same sums, counted."""
    if not isinstance(op, Mac) or not counts(op):
        return None
    bordered = any(isinstance(block, Pad) for block in op.circuit(1, 1, {}).blocks.values())
    return Popcount(op, bordered or not no_zero(op.x))
