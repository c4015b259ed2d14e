"""From one format to another, element by element, with one rounding (hw/requantize)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mase.blocks.block_normalise import Normaliser
from mase.blocks.encode import Encoder
from mase.blocks.output import Output
from mase.dataflow.block import Block, Pipe
from mase.dataflow.grid import activation_grid, check_lanes, produced_grid
from mase.dataflow.rounding import FLOAT_SAFE
from mase.dataflow.schedule import Actor, Loop, Schedule, stream
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.formats.whole import whole
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, HardwareOp, travel
from mase.ops.operations import Operations, each

Real = float  # inside the class the name means how the kind computes
DIGITS = 31  # bits of an upper bound without its trailing zeros


@dataclass(frozen=True)
class RequantizeFoldings(Foldings):
    """The requantize unit before it is folded.

    Args:
        rows, cols: shape. x_width, x_bits, x_block, x_exp_bits: of the input, as in LinearFoldings.
        out_width, out_block: of the result. mult_bits, raw_width: of the multiplier (0: none) and the exact result.
        normaliser: what follows where the unit leaves raw integers. zero_bits: of a result that are always 0.
        mult_zeros: trailing zeros of the multiplier. bounded: the input has an upper bound.
    """

    rows: int
    cols: int
    x_bits: int
    x_block: int
    x_exp_bits: int
    out_width: int
    out_block: int
    mult_bits: int
    raw_width: int
    normaliser: Normaliser | Encoder | None
    zero_bits: int = 0
    mult_zeros: int = 0
    bounded: bool = False

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.cols, self.x_block, self.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        core = self.rows * ceil_div(self.cols, pe)
        return core if self.normaliser is None else np.maximum(core, self.normaliser.cycles(pe))

    @property
    def latency(self) -> int:
        """Cycles from a firing to its output beat."""
        return 2 + (self.mult_bits > 0) + (self.normaliser is None)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        return {"": self.latency + 2, "normalise": 0 if self.normaliser is None else self.normaliser.fifo(1)}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        wide, beats = self.raw_width - self.mult_bits, self.rows * ceil_div(self.cols, pe)
        rounders = () if self.normaliser is not None else ((pe, self.raw_width, self.out_width),)
        factor = self.mult_bits + 1 - self.mult_zeros if self.mult_bits else 0
        lanes = pe * ((self.out_width if self.normaliser is None else self.raw_width) - self.zero_bits)
        registers = pe * (wide + (wide + factor - 1) * (self.mult_bits > 0))
        core = Work(
            multipliers=((pe, wide, factor),) * (factor > 2),  # a power of two is a shift
            shifters=((pe, wide, (1 << self.x_exp_bits) - 1),) * (self.x_block > 0),
            gates=((pe * wide, 2),) * self.bounded,
            registers=registers + lanes * (self.normaliser is None) + self.latency - 1,
            delays=((np.greater(beats, 1), self.latency - 1),),
            fifos=((lanes + 1, fifos[""]),),
            rounders=rounders,
            counters=(beats,),
        )
        if self.normaliser is None:
            return {"": core}
        return {"": core, "normalise": self.normaliser.work(pe, fifos["normalise"])}


@OPS.add("requantize")
@dataclass(frozen=True, eq=False)
class Requantize(HardwareOp):
    """y = round(m * (x << e)).

    Args:
        name: of the node. rows, cols: shape of one sample. x: grid of the input. out: multiplier and rounding.
        order: in which elements travel, on both sides. ceiling: greatest integer that is let through; 0: all are.
    """

    kind: ClassVar[str] = "requantize"
    family: ClassVar[Family] = "format-change"

    name: str
    rows: int
    cols: int
    x: Grid
    out: Output
    order: Travel
    ceiling: int = 0

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
        super().check_formats(node)
        cls.of(node)  # two formats that have hardware may lie too far apart

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        return cls.of(node)

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
        return cls(node.name, order.rows, order.cols, x, out, order, _ceiling(most, x, where))

    def reference(self, *inputs: Code) -> Code:
        rows = self.order.travelling(inputs[0], self.x.block)
        return self._held(self.out.apply(self.integers(rows)), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        """Return codes of the result as the tensor holds them, shaped as the input."""
        return self.order.held(y, x.mantissa.shape[1:], self.out.grid.block)

    def integers(self, x: Code) -> Tensor:
        """Return the input on one unit: exact integers."""
        t = self.x.integers(x, torch.float64)
        if self.ceiling:
            t = t.clamp_max(float(self.ceiling))
        return t if self.out.total < FLOAT_SAFE else whole(t)

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
    def raw_width(self) -> int:
        """Bits of the integers that are rounded, as the RTL derives them."""
        return self.x.element_bits + ((1 << self.x.exp_bits) - 1 if self.x.block else 0) + self.out.mult_bits

    @cached_property
    def foldings(self) -> RequantizeFoldings:
        x, out = self.x, self.out
        normaliser = None
        if out.raw:
            normaliser = out.normaliser(self.rows, self.cols, 1, self.raw_width, 2).normaliser
        return RequantizeFoldings(
            self.rows,
            self.cols,
            x.element_bits,
            x.block,
            x.exp_bits,
            out.grid.width,
            out.grid.block,
            out.mult_bits,
            self.raw_width,
            normaliser,
            out.zero_bits,
            0 if out.multiplier is None else _trailing_zeros(int(out.multiplier[0])),
            self.ceiling > 0,
        )

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        core = RequantizeBlock(self, pe, fifo=fifos.get("", 2))
        if not self.out.raw:
            return {"": core}
        fifo = fifos.get("normalise", 2)
        return {"": core, "normalise": self.out.normaliser(self.rows, self.cols, pe, self.raw_width, fifo)}

    def warnings(self) -> tuple[str, ...]:
        return self.out.warnings


@dataclass(frozen=True, eq=False)
class RequantizeBlock(Pipe):
    """The requantize unit on ``lanes`` elements a cycle."""

    op: Requantize
    lanes: int
    sv_module: ClassVar[str] = "mase_requantize"

    def __post_init__(self) -> None:
        for grid in (self.op.x, self.op.out.grid):
            check_lanes(f"{self.op.kind} {self.op.name!r}", grid, self.lanes)

    @property
    def stream_in(self) -> StreamType:
        return StreamType(self.op.rows, self.op.cols, self.lanes, self.op.x)

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.op.rows, self.op.cols, self.lanes, self.op.out.raw_grid(self.op.raw_width))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.op.out.given(self.op.integers(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self.op.integers(*inputs), self.op.out.describe

    @property
    def latency(self) -> int:
        """Cycles from a firing to its output beat."""
        return self.op.foldings.latency

    def schedule(self) -> Schedule:
        body = (Loop(self.stream_in.beats, (stream(take=True, produce=True),)),)
        return Schedule((Actor("", body, {"out": self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        op = self.op
        return {
            "Beats": self.stream_in.beats,
            "Lanes": self.lanes,
            "XWidth": op.x.width,
            "XSigned": int(op.x.signed),
            "XExpBits": op.x.exp_bits,
            "XBlock": max(1, op.x.block),
            "CeilDigits": _digits(op.ceiling)[0],
            "CeilShift": _digits(op.ceiling)[1],
            "Mult": 1 if op.out.multiplier is None else int(op.out.multiplier[0]),
            **op.out.sv_params(op.raw_width),
            "FifoDepth": self.fifo,
        }

    def work(self) -> Work:
        return self.op.foldings.work(self.lanes, self.lanes, {"": self.fifo, "normalise": 2})[""]


def _ceiling(most: float, x: Grid, where: str) -> int:
    """Return an upper bound as an integer of a grid; 0 where nothing lies above it."""
    plain = x.plain
    reach = max(-plain.low, plain.high) << plain.span
    if math.isinf(most) or most >= reach * Fraction(2) ** plain.unit:
        return 0
    exact = Fraction(most) / Fraction(2) ** plain.unit
    if exact.denominator > 1 or _digits(int(exact))[0] >> DIGITS:
        raise UnsupportedOp(
            f"{where}: the bound {most:g} has no short code in units of the input; allowed are such as 6"
        )
    return int(exact)


def _digits(n: int) -> tuple[int, int]:
    """Return (d, s) with n = d << s and d odd, or (0, 0)."""
    shift = max(_trailing_zeros(n), 0)
    return n >> shift, shift


def _trailing_zeros(n: int) -> int:
    return (n & -n).bit_length() - 1
