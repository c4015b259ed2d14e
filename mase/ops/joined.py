"""What nodes compute by that join two streams, element by element; a smaller one is spread over the other (hw/pair)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.blocks.pair import A, B, Pair, PairFoldings, Pairing, Scale
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.schedule import IN, OUT
from mase.dataflow.stream import Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode
from mase.ops.base import travel
from mase.ops.moves import Move, in_travel, planned, sources

SPREAD = "spread"  # role of the block that repeats a smaller input
Arithmetic = Callable[[Grid, Grid, Grid, Scale], tuple[Pairing, Output]]


class Side(NamedTuple):
    """One input.

    Args:
        come: order in which its elements travel. grid: of its codes. scale: real, None is 1.
        move: block that repeats them; None where they are as many as those of the result, in its order.
        places: for each element of the result, in order of travel, the place of the one that comes; alike by default.
    """

    come: Travel
    grid: Grid
    scale: Tensor | None
    move: Move | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, source: OpNode, node: OpNode) -> Self:
        """Build for an input of a node.

        Raises:
            UnsupportedOp: it travels otherwise than the result, or cannot be spread over it.
        """
        fmt, come, order, where = source.record.output.format, travel(source), travel(node), node.where()
        assert fmt is not None
        grid = activation_grid(fmt, source.params(), where)
        found = cls(come, grid, source.params().scale if grid.scaled else None)
        if source.record.output.shape != node.record.output.shape:
            return found._spread(source, node, order)
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
        return found

    def _spread(self, source: OpNode, node: OpNode, order: Travel) -> Self:
        """Return the side with the block that repeats its elements."""
        shape, whole = source.record.output.shape, node.record.output.shape
        what = f"{node.where()}: input {source.name!r} of shape {shape} is spread over {whole}"
        if len(shape) != len(whole) or shape[0] != whole[0]:
            raise UnsupportedOp(f"{what}, across samples; allowed on chip is spreading over the axes of a sample")
        found = planned(_expand, json.dumps({"sizes": whole[1:]}), (shape,), (self.come,), order, self.grid, None)
        if isinstance(found, str):
            raise UnsupportedOp(f"{what}, which {found}")
        return self._replace(move=found, places=_places(shape, whole[1:], self.come, order))

    def elements(self, x: Tensor) -> list[int]:
        """Return numbers of a sample that travels as the input does as a list in order of the result."""
        flat: list[int] = (x.flatten() if self.places is None else x.flatten()[self.places]).tolist()
        return flat


def _expand(x: Sequence[Tensor], attrs: Mapping[str, Sequence[int]]) -> Tensor:
    return x[0].expand(-1, *attrs["sizes"])


@lru_cache(maxsize=64)
def _places(shape: tuple[int, ...], sizes: tuple[int, ...], come: Travel, order: Travel) -> Tensor:
    """Return where each element of a spread tensor comes from, both in order of travel."""
    numbers = sources(_expand, {"sizes": sizes}, (shape,))
    assert numbers is not None
    return torch.from_numpy(in_travel(numbers, (come,), order).ravel())


@dataclass(frozen=True)
class JoinedFoldings(Foldings):
    """A pair before it is folded, with the blocks that repeat a smaller input by role."""

    core: PairFoldings
    before: tuple[tuple[str, Move], ...]

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes, _ = self.core.lanes()
        lanes = lanes[[all(move.legal(int(n)) for _, move in self.before) for n in lanes]]
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.core.cycles(simd, pe)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {**self.core.fifos(simd, pe), **{role: move.fifos(pe, pe)[""] for role, move in self.before}}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        out = dict(self.core.work(simd, pe, fifos))
        for role, move in self.before:
            out[role] = move.work(pe, pe, {"": fifos[role]})[""]
        return out


@dataclass(frozen=True, eq=False)
class Joined:
    """y = f(a, b) with one rounding.

    Args:
        shape: of a sample. order: in which elements of the result travel. a, b: inputs. pairing: the sum or product.
        out: its rounding. swapped: input 0 of the node is b.
    """

    shape: tuple[int, ...]
    order: Travel
    a: Side
    b: Side
    pairing: Pairing
    out: Output
    swapped: bool

    @classmethod
    def of(cls, node: OpNode, arithmetic: Arithmetic, swapped: bool) -> Self:
        """Build for the two inputs of a node.

        Raises:
            UnsupportedOp: as :meth:`Side.of`, or the sum or product is too wide.
        """
        fmt = node.record.output.format
        assert fmt is not None
        a, b = (Side.of(source, node) for source in (node.inputs[::-1] if swapped else node.inputs))
        y = produced_grid(fmt, node.params(), node.where())
        scale = Scale(a.scale, b.scale, node.params().scale if y.scaled else None)
        return cls(node.record.output.shape[1:], travel(node), a, b, *arithmetic(a.grid, b.grid, y, scale), swapped)

    def reference(self, *inputs: Code) -> Code:
        """Compute codes: vectorised, exact."""
        t = self._core.integers(*(self._rows(side, code) for side, code in self._pairs(inputs)))
        return self.order.held(self.out.apply(t), self.shape, self.out.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        """Compute the same on Python integers."""
        (a, x), (b, y) = self._pairs(inputs)
        levels = [operand.levels(code) - operand.shift for operand, code in ((self.pairing.a, x), (self.pairing.b, y))]
        mantissas, exponents = [], []
        for i in range(len(x.mantissa)):
            left = zip(a.elements(x.mantissa[i]), a.elements(levels[0][i]), strict=True)
            right = zip(b.elements(y.mantissa[i]), b.elements(levels[1][i]), strict=True)
            t = [self.pairing.scalar(*one, *other) for one, other in zip(left, right, strict=True)]
            for start in range(0, len(t), self.order.cols):
                m, blocks = self.out.scalar(t[start : start + self.order.cols])
                mantissas.append(m)
                exponents.append(blocks)
        rows = len(x.mantissa), self.order.rows
        exponent = torch.tensor(exponents).reshape(*rows, -1) if self.out.grid.block else None
        found = Code(torch.tensor(mantissas).reshape(*rows, self.order.cols), exponent)
        return self.order.held(found, self.shape, self.out.grid.block)

    def _pairs(self, inputs: tuple[Code, ...]) -> list[tuple[Side, Code]]:
        """Return a and b, each with its codes as they travel."""
        pairs = zip((self.a, self.b), inputs[::-1] if self.swapped else inputs, strict=True)
        return [(side, side.come.travelling(code, side.grid.block)) for side, code in pairs]

    def _rows(self, side: Side, code: Code) -> Code:
        """Return codes ``[samples, rows, cols]`` of the result; rows of blocks are equal."""
        if side.move is not None:
            circuit = side.move.circuit(1, {})
            code = circuit.run(code)[circuit.outputs[0]]
        return Code(code.mantissa.reshape(-1, self.order.rows, self.order.cols), code.exponent)

    @property
    def _core(self) -> Pair:
        return Pair(self.order.rows, self.order.cols, 1, self.pairing, self.out)

    @cached_property
    def _before(self) -> dict[str, tuple[str, Move]]:
        """Blocks that repeat a smaller input, with the port of the pair that each is for, by role."""
        sides = ((A, self.a), (B, self.b))
        return {f"{SPREAD}_{port}": (port, side.move) for port, side in sides if side.move is not None}

    @property
    def foldings(self) -> JoinedFoldings:
        """Everything that cycles and hardware depend on but the lanes."""
        return JoinedFoldings(self._core.foldings, tuple((role, move) for role, (_, move) in self._before.items()))

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        """Return the pair, what repeats a smaller input before it, and the normaliser where the result has blocks."""
        rows, cols = self.order.rows, self.order.cols
        core = Pair(rows, cols, pe, self.pairing, self.out, fifo=fifos.get("", LEAST_FIFO))
        blocks, wires, pins = dict[str, Block](), list[Wire](), {A: Pin("", A), B: Pin("", B)}
        for role, (port, move) in self._before.items():
            blocks[role] = move.circuit(pe, {"": fifos.get(role, LEAST_FIFO)}).blocks[""]
            wires.append(Wire(Pin(role, OUT), pins[port]))
            pins[port] = Pin(role, IN)
        blocks[""], last = core, Pin("", OUT)
        if self.out.raw:
            fifo = fifos.get("normalise", LEAST_FIFO)
            blocks["normalise"] = self.out.normaliser(rows, cols, pe, core.raw_width, fifo)
            wires.append(Wire(last, Pin("normalise", IN)))
            last = Pin("normalise", OUT)
        ends = pins[A], pins[B]
        return Circuit(blocks, tuple(wires), ends[::-1] if self.swapped else ends, (last,))

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know of the numbers."""
        return self.out.warnings
