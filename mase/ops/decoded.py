"""Operators behind decoders: what computes on integers also takes codes that are not (hw/decode)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mase.blocks.decode import Decode, decode_part
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.schedule import IN, OUT
from mase.dataflow.work import Count, Foldings, Lanes, Work
from mase.formats import Code
from mase.formats.grid import Grid, off_chip
from mase.graph import Json, OpNode
from mase.ops.base import Arithmetic

DECODE = "decode"


@dataclass(frozen=True)
class Decoder:
    """A decoder before it is folded: its role, shape of a sample, and the codes that come."""

    role: str
    rows: int
    cols: int
    grid: Grid


@dataclass(frozen=True)
class DecodedFoldings(Foldings):
    """An operator and its decoders before they are folded."""

    core: Foldings
    decoders: tuple[Decoder, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.core.names

    def lanes(self) -> tuple[Lanes, Lanes]:
        simd, pe = self.core.lanes()
        fits = simd > 0
        for block in (decoder.grid.block for decoder in self.decoders if decoder.grid.block):
            fits = fits & ((simd % block == 0) | (block % simd == 0))
        return simd[fits], pe[fits]

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.core.cycles(simd, pe)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        own = {one.role: decode_part(1, 1, one.grid, 1, 0).latency + 2 for one in self.decoders}
        return {**self.core.fifos(simd, pe), **own}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        out = dict(self.core.work(simd, pe, fifos))
        for one in self.decoders:
            out[one.role] = decode_part(one.rows, one.cols, one.grid, simd, fifos[one.role]).work
        return out


@dataclass(frozen=True, eq=False)
class Decoded(Arithmetic):
    """An operator whose inputs come as codes that are not plain integers: each such input passes a decoder.

    Args:
        core: the operator, on integers. grids: of the inputs as they come, and the axes along which their blocks lie.
    """

    core: Arithmetic
    grids: tuple[tuple[Grid, int], ...]

    @classmethod
    def of(cls, core: Arithmetic, node: OpNode) -> Arithmetic:
        """Return the operator of a node with the decoders that it needs; itself where it needs none."""
        _check_given(core, node)
        grids = []
        for source in node.inputs:
            fmt = source.record.output.format
            assert fmt is not None
            grids.append((fmt.grid(source.params(), node.where()), source.params().axis))
        if all(grid.plain is grid for grid, _ in grids):
            return core
        found = cls(core, tuple(grids))
        return found if found._decoders(1, 1) else core

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*self._integers(inputs))

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*self._integers(inputs))

    def _integers(self, inputs: tuple[Code, ...]) -> list[Code]:
        needed = {i for i, _ in self._decoders(1, 1)}
        pairs = enumerate(zip(inputs, self.grids, strict=True))
        return [grid.decoded(code, axis) if i in needed else code for i, (code, (grid, axis)) in pairs]

    def _decoders(self, simd: int, pe: int) -> list[tuple[int, Decoder]]:
        """Return the inputs that need a decoder: those that the operator takes as integers."""
        takes = self.core.circuit(simd, pe, {}).takes  # none: a view, which moves nothing
        found = []
        for i, (take, (grid, _)) in enumerate(zip(takes, self.grids, strict=bool(takes))):
            if grid.plain is not grid and take.grid == grid.plain:
                found.append((i, Decoder(f"{DECODE}{i or ''}", take.rows, take.cols, grid)))
        return found

    @property
    def foldings(self) -> DecodedFoldings:
        return DecodedFoldings(self.core.foldings, tuple(decoder for _, decoder in self._decoders(1, 1)))

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        core = self.core.circuit(simd, pe, fifos)
        before = dict[str, Decode]()
        wires, inputs = list(core.wires), list(core.inputs)
        for i, one in self._decoders(simd, pe):
            lanes = core.takes[i].lanes
            before[one.role] = Decode(one.rows, one.cols, lanes, one.grid, fifo=fifos.get(one.role, 2))
            wires.append(Wire(Pin(one.role, OUT), inputs[i]))
            inputs[i] = Pin(one.role, IN)
        return Circuit({**before, **core.blocks}, tuple(wires), tuple(inputs), core.outputs)

    def settled(self) -> Mapping[str, Json]:
        return self.core.settled()

    def warnings(self) -> tuple[str, ...]:
        return self.core.warnings()


def _check_given(core: Arithmetic, node: OpNode) -> None:
    """Refuse a format that the operator does not give, where its codes are not plain integers."""
    fmt = node.record.output.format
    assert fmt is not None
    grid = fmt.grid(node.params(), node.where())
    if grid.plain is grid:
        return
    gives = core.circuit(1, 1, {}).gives  # none: a view, which moves nothing
    if gives and gives[0].grid != grid:
        raise off_chip(fmt, node.where(), f"is not one that a node of kind {node.kind} gives on chip")
