"""A new kind is one new file: one that this file alone knows goes from the trace to proven RTL, priced on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

import mase
from emit.lint import lint
from emit.verify import prove
from mase.blocks.affine import AffineFoldings
from mase.dataflow.block import Block
from mase.formats import Code
from mase.frontend.calls import Call, Lifted
from mase.graph import Graph, OpNode, Record
from mase.netlist import build
from mase.ops.base import OPS, HardwareOp, InRow
from mase.ops.operations import Operations, each
from mase.ops.scaled import Scaled
from mase.scoring import space
from passes.map import MapConfig, map_graph

KIND = "radians"


def _lifted(call: Call) -> Lifted:
    return Lifted(KIND, [call.tensor(0, "input")])


@dataclass(frozen=True, eq=False)
class Radians(InRow, HardwareOp):
    """y = x pi / 180, one rounding; an angle behind a ReLU stays one that is not negative."""

    kind: ClassVar[str] = KIND
    calls: ClassVar[Mapping[str, Callable[[Call], Lifted]]] = {"deg2rad": _lifted}

    core: Scaled

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return torch.deg2rad(inputs[0])

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        return cls(Scaled.of(node, torch.tensor(math.pi / 180).double(), torch.zeros(()).double()))

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*inputs)

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*inputs)

    @property
    def foldings(self) -> AffineFoldings:
        return self.core.foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return self.core.blocks(simd, pe, fifos)


class Angles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.after(torch.deg2rad(90 * torch.relu(self.before(x))))
        return found


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    assert KIND not in OPS
    monkeypatch.setitem(OPS._items, KIND, Radians)
    torch.manual_seed(3)
    x = torch.randn(32, 6)
    traced = mase.trace(Angles().eval(), (x[:2],))
    assert KIND in [node.kind for node in traced.operators()]
    section = {"default": {"weight": "int6", "activation": "int8"}, "overrides": {"*": {"output": "fixed10.4"}}}
    return map_graph.run(mase.quantize(traced, section, x), MapConfig(interval=14))[0]


def test_a_kind_that_no_other_file_knows_is_built_priced_and_linted(graph: Graph, tmp_path: Path) -> None:
    (name,) = (node.name for node in graph.operators() if node.kind == KIND)
    netlist = build(graph)
    assert netlist.ops[name].foldings.cycles(1, netlist.circuit.blocks[name].outputs["out"].lanes) <= 14
    assert mase.estimate(graph).node(name).lut > 0
    assert [axis for axis in space(graph, ("int4",), ("int8", "fixed8.4")).names if name in axis]
    design = mase.emit(graph, tmp_path / "rtl", "angles")
    found = lint(sorted(design.folder.glob("**/*.sv")), None)
    assert [str(f) for f in found if f.severity != "absent"] == []


@pytest.mark.sim
def test_a_kind_that_no_other_file_knows_keeps_the_promise(graph: Graph, tmp_path: Path) -> None:
    design = mase.emit(graph, tmp_path / "rtl", "angles")
    proof = prove(graph, design, torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))
    assert (sum(edge.mismatches for edge in proof.edges), proof.late) == (0, None)
