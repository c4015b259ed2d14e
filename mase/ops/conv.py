"""Convolution over one, two or three axes, also transposed; the rank of the weight says how many.

On chip (hw/pad, hw/window, hw/linear): a border of zeros, windows, and the unit that sums, whose rows are windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mase.blocks.linear import LinearFoldings
from mase.blocks.pad import Border, Pad, PadFoldings
from mase.blocks.window import Window, WindowFoldings, Windows
from mase.dataflow.block import LEAST_FIFO, Block, Pipe
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Axes, Code
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Arithmetic, by_pixels, need, not_negative, travel
from mase.ops.depthwise import Depthwise
from mase.ops.mac import Mac
from mase.ops.operations import Operations

FORWARD = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by rank of the weight
TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
PADDINGS = ("zeros", "reflect", "replicate", "circular")
PAD, WINDOW = "pad", "window"
CHUNK = 1 << 22  # elements of windows at a time


@dataclass(frozen=True)
class ConvFoldings(Foldings):
    """A convolution before it is folded: what stands before the unit has the lanes of its input."""

    core: LinearFoldings
    pad: PadFoldings | None
    window: WindowFoldings | None

    @property
    def names(self) -> tuple[str, ...]:
        return self.core.names

    def lanes(self) -> tuple[Lanes, Lanes]:
        return self.core.lanes()

    def cycles(self, simd: Count, pe: Count) -> Count:
        found = self.core.cycles(simd, pe)
        for part in (self.pad, self.window):
            found = found if part is None else np.maximum(found, part.cycles(simd))
        return found

    def buffer(self, simd: Count, pe: Count) -> Count:
        """Return the depth of the buffer of windows that keeps these cycles."""
        assert self.window is not None
        return self.window.buffer(simd, self.core.out_tiles(pe) * self.core.beats(simd))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        before = {PAD: self.pad, WINDOW: self.window}
        return {**{role: part.fifo() for role, part in before.items() if part}, **self.core.fifos(simd, pe)}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        out = dict[str, Work]()
        if self.pad is not None:
            out[PAD] = self.pad.part(simd, fifos[PAD]).work
        if self.window is not None:
            out[WINDOW] = self.window.part(simd, self.buffer(simd, pe), fifos[WINDOW]).work
        return {**out, **self.core.work(simd, pe, fifos)}


@OPS.add("conv")
@dataclass(frozen=True, eq=False)
class Conv(Mac):
    """y = act(conv(x, weight) + bias), x ``[batch, channels, ...]``.

    Attributes: stride, padding (numbers, or ``same`` or ``valid``), dilation, groups; padding_mode where it is not
    zeros; transposed, with output_padding; activation (relu, where it was fused).

    Args:
        border: around the image; an image of one axis has height 1. windows: in the image with its border.
        before, after: orders in which input and result travel: pixel by pixel, all channels of a pixel together.
    """

    kind: ClassVar[str] = "conv"

    border: Border
    windows: Windows
    before: Travel
    after: Travel

    # -- float -----------------------------------------------------------------------------------------------------

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        y = Conv._sum(record, operands, inputs[0])
        return y.relu() if record.attrs.get("activation") == "relu" else y

    @staticmethod
    def _sum(record: Record, operands: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weight, bias, attrs = operands["weight"], operands.get("bias"), record.attrs
        sizes = len(weight.shape) - 2
        stride, padding = attrs.get("stride", [1] * sizes), attrs.get("padding", [0] * sizes)
        dilation, groups = attrs.get("dilation", [1] * sizes), attrs.get("groups", 1)
        if attrs.get("transposed"):
            extra = attrs.get("output_padding", [0] * sizes)
            return TRANSPOSED[weight.ndim](x, weight, bias, stride, padding, extra, groups, dilation)
        if attrs.get("padding_mode", "zeros") != "zeros":
            x = F.pad(x, _around(padding, dilation, weight.shape[2:]), mode=attrs["padding_mode"])
            padding = [0] * sizes
        return FORWARD[weight.ndim](x, weight, bias, stride, padding, dilation, groups)

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        return rank - len(record.operands["weight"].shape) + 1

    @classmethod
    def channels(cls, record: Record) -> int | None:
        sizes = len(record.operands["weight"].shape) - 2
        odd = {"transposed", "activation"} & record.attrs.keys()
        return None if odd else len(record.output.shape) - sizes - 1

    @classmethod
    def axes(cls, record: Record, role: str) -> Axes:
        if role != "weight":
            return Axes()
        return Axes(1, 0) if record.attrs.get("transposed") else Axes(0, 1)

    @classmethod
    def epilogues(cls, record: Record) -> frozenset[str]:
        return frozenset() if "activation" in record.attrs else frozenset({"relu"})

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        weight, attrs = node.record.operands["weight"].shape, node.record.attrs
        many = node.inputs[0].record.output if attrs.get("transposed") else node.record.output
        products = math.prod(many.shape) * math.prod(weight[1:])
        return Operations(products, math.prod(node.record.output.shape) if "activation" in attrs else 0)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        need(node, "weight")
        attrs, weight = node.record.attrs, node.record.operands["weight"].shape
        if len(weight) not in FORWARD:
            raise GraphError(f"{node.where()}: weight has shape {weight}; allowed are 3 to 5 axes")
        if attrs.get("padding_mode", "zeros") not in PADDINGS:
            raise GraphError(f"{node.where()}: padding_mode {attrs['padding_mode']!r}; allowed: {', '.join(PADDINGS)}")
        takes = weight[0] if attrs.get("transposed") else weight[1] * attrs.get("groups", 1)
        found = node.inputs[0].record.output.shape
        if len(found) not in (len(weight), len(weight) - 1) or found[1 - len(weight)] != takes:
            raise GraphError(f"{node.where()}: input is {found}; the weight takes {takes} channels")

    # -- from a node ------------------------------------------------------------------------------------------------

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        super().check_formats(node)
        why = _off_chip(node)
        if why:
            raise UnsupportedOp(f"{node.where()}: {why}")

    @classmethod
    def from_node(cls, node: OpNode) -> Arithmetic:
        cls.check_formats(node)
        formats, weight, bias = cls.operands(node)
        source, record = node.inputs[0], node.record
        border, windows = _places(record, source.record.output.shape)
        if _depthwise(record):
            return Depthwise.of(node, formats, weight, bias, border, windows)
        return cls.build(
            node.name,
            node.where(),
            math.prod(windows.count),
            *formats,
            weight,
            bias,
            attrs=record.attrs,
            positive=not_negative(source),
            parts=_taps,
            sets=record.attrs.get("groups", 1),
            border=border,
            windows=windows,
            before=Travel.of(source.record.output.shape[1:], 0),
            after=Travel.of(record.output.shape[1:], 0),
        )

    # -- arithmetic -------------------------------------------------------------------------------------------------

    def reference(self, *inputs: Code) -> Code:
        image = self.before.travelling(inputs[0], self.x.block)
        image = replace(image, mantissa=image.mantissa.to(self.carrier))  # windows repeat elements: few bytes each
        step = max(1, CHUNK // (self.rows * self.sets * self.inputs))
        exponents = [None] * len(image.mantissa) if image.exponent is None else image.exponent.split(step)
        parts = [Code(*pair) for pair in zip(image.mantissa.split(step), exponents, strict=False)]
        return self._held(_joined([self.out.apply(self.sums(self._windows(part))) for part in parts]))

    def _windows(self, x: Code) -> Code:
        """Return what the unit sums: codes ``[samples, windows * groups * taps, channels of a group]``."""
        for block in self._front(1, int(self.windows.span * self.channels_in), {}).values():
            (x,) = block.compute(x)
        return x

    def _held(self, y: Code) -> Code:
        """Return the codes of the result as the tensor holds them."""
        return self.after.held(y, self.after.axes, self.out.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        """Compute from the definition, pixel by pixel; outside the image all is 0."""
        code, where, part = inputs[0], self.windows, self.cols
        height, width = self.size
        shape = len(code.mantissa), -1, height, width
        images = code.mantissa.reshape(shape).tolist()
        exponents = None if code.exponent is None else code.exponent.reshape(shape).tolist()
        blocks = 0 if code.exponent is None else -(-part // self.x.block)
        rows, exps = [], []
        for n, (y, x, group) in itertools.product(range(len(images)), self._places()):
            for i, j in itertools.product(*map(range, where.kernel)):
                row = y * where.stride[0] + i * where.dilation[0] - self.border.top
                col = x * where.stride[1] + j * where.dilation[1] - self.border.left
                there = 0 <= row < height and 0 <= col < width
                inside = range(group * part, (group + 1) * part)
                rows.append([images[n][c][row][col] if there else 0 for c in inside])
                if exponents is not None:
                    own = range(group * blocks, (group + 1) * blocks)
                    exps.append([exponents[n][b][row][col] if there else self.x.base for b in own])
        samples = len(images)
        exponent = torch.tensor(exps).reshape(samples, -1, blocks) if exps else None
        return self._held(self.oracle_rows(Code(torch.tensor(rows).reshape(samples, -1, part), exponent)))

    def _places(self) -> list[tuple[int, int, int]]:
        """Return row, column and group of all that is summed, in the order in which it is."""
        height, width = self.windows.count
        return list(itertools.product(range(height), range(width), range(self.sets)))

    # -- hardware ---------------------------------------------------------------------------------------------------

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        return self.cols * self.sets

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        (height, width), border = self.windows.image, self.border
        return height - border.top - border.bottom, width - border.left - border.right

    @property
    def takes(self) -> tuple[StreamType, ...]:
        return (StreamType(math.prod(self.size), self.channels_in, 1, self.x),)

    @cached_property
    def foldings(self) -> ConvFoldings:
        x, cols = self.x, self.channels_in
        grid = x.width, x.block, x.exp_bits
        pad = PadFoldings(self.size, self.border, cols, *grid) if any(self.border) else None
        window = None if self._passes else WindowFoldings(self.windows, self.sets, cols, *grid)
        return ConvFoldings(self.core, pad, window)

    @property
    def _passes(self) -> bool:
        """Tell whether pixels are summed as they come: one by one, or the whole image in one window."""
        where = self.windows
        whole = where.kernel == where.image and where.dilation == (1, 1) and self.sets == 1
        return where.trivial or whole

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        unit = self.unit(simd, pe, fifos)
        buffer = 0 if self._passes else int(self.foldings.buffer(simd, pe))
        return {**self._front(simd, buffer, fifos), **unit}

    def _front(self, simd: int, buffer: int, fifos: Mapping[str, int]) -> dict[str, Pipe]:
        """Return what stands before the unit, by role."""
        out, stream = dict[str, Pipe](), replace(self.takes[0], lanes=simd)
        if any(self.border):
            out[PAD] = Pad(stream, self.size, self.border, fifo=fifos.get(PAD, LEAST_FIFO))
            stream = out[PAD].stream_out
        if not self._passes:
            out[WINDOW] = Window(stream, self.windows, buffer, self.sets, fifo=fifos.get(WINDOW, LEAST_FIFO))
        return out


def _off_chip(node: OpNode) -> str:
    """Return why a convolution has no hardware; empty where it has."""
    record, source = node.record, node.inputs[0]
    attrs, weight, shape = record.attrs, record.operands["weight"].shape, source.record.output.shape
    if attrs.get("transposed"):
        return "is transposed; allowed are kernels as large as the stride, without border and groups"
    if len(weight) > 4:
        return f"runs over {len(weight) - 2} axes; on chip a convolution runs over 1 or 2"
    if len(shape) != len(weight):
        return f"its input {shape} has no batch; on chip it has one"
    if attrs.get("padding_mode", "zeros") != "zeros":
        return f"padding_mode {attrs['padding_mode']}; on chip: zeros"
    for what, edge in (("its input travels", source), ("its result is to travel", node)):
        if not by_pixels(edge):
            fastest = 1 + travel(edge).order[-1]
            return f"{what} with axis {fastest} fastest; a convolution on chip takes and gives all channels of a pixel"
    fmt, part = source.record.output.format, weight[1]
    assert fmt is not None
    grid = fmt.grid(source.params(), node.where()).plain
    block = grid.block
    if block and not _depthwise(record) and attrs.get("groups", 1) > 1 and part % block:
        return f"blocks of {block} do not tile the {part} channels of a group; allowed are divisors of {part}"
    return ""


def _depthwise(record: Record) -> bool:
    """Tell whether each channel of the result is made of one channel of the input."""
    outputs, inputs = record.operands["weight"].shape[:2]  # inputs of a group
    return bool(1 < record.attrs.get("groups", 1) == outputs and inputs == 1)


def _places(record: Record, shape: Sequence[int]) -> tuple[Border, Windows]:
    """Return the border and the windows of a convolution over one or two axes; one axis is the width."""
    kernel = record.operands["weight"].shape[2:]
    ones = [1] * len(kernel)
    stride, dilation = record.attrs.get("stride", ones), record.attrs.get("dilation", ones)
    left, right, top, bottom = [*_around(record.attrs.get("padding", [0] * len(kernel)), dilation, kernel), 0, 0][:4]
    border, first = Border(top, bottom, left, right), [1] * (2 - len(kernel))
    size, kernel, stride, dilation = (
        (int(n[0]), int(n[1])) for n in ([*first, *pair] for pair in (shape[2:], kernel, stride, dilation))
    )
    return border, Windows(border.around(size), kernel, stride, dilation)


def _around(padding: str | Sequence[int], dilation: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return the padding on both sides of each axis, the last axis first, as ``pad`` takes it."""
    sides: list[Any] = []
    for axis in reversed(range(len(kernel))):
        if isinstance(padding, str):
            total = dilation[axis] * (kernel[axis] - 1) if padding == "same" else 0
            sides += [total // 2, total - total // 2]
        else:
            sides += [padding[axis]] * 2
    return sides


def _joined(codes: Sequence[Code]) -> Code:
    """Return the samples of several codes one after the other."""
    exponents = [code.exponent for code in codes if code.exponent is not None]
    return Code(torch.cat([code.mantissa for code in codes]), torch.cat(exponents) if exponents else None)


def _taps(x: Tensor) -> Tensor:
    """Return weights, or what counts their blocks, by pixel of the window, channels last."""
    return x.flatten(2).transpose(1, 2)
