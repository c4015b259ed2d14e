"""The blocks of the fit: every kind of arithmetic at several widths, lanes, sizes; memories, products, converters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mase.blocks.output import Output
from mase.calib.fit import fit
from mase.dataflow.block import Block, pack_words
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.width_converter import WidthConverter
from mase.dataflow.work import Work
from mase.formats import Axes, Format, QuantParams
from mase.ops.linear import Linear
from mase.ops.requantize import Requantize

FRAME = "frame_rom depth 1"  # the point that measures the frame around memories and products alone
PRODUCTS = 8  # in one frame


@dataclass(frozen=True, eq=False)
class Point:
    """One synthesis of the fit.

    Args:
        name: unique. module: of the RTL. params: of the module. memories: text of each image by its parameter.
        work: what the block is made of. framed: stands in a frame, whose LUTs do not count.
        product: operands' bits of the products that the point measures alone.
    """

    name: str
    module: str
    params: Mapping[str, int]
    memories: Mapping[str, str] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    framed: bool = False
    product: tuple[int, int] | None = None


@dataclass(frozen=True)
class LinearCase:
    """A linear layer: formats of weight, input and output, sizes, lanes, depth of the FIFOs."""

    weight: str
    x: str
    y: str
    inputs: int
    outputs: int
    simd: int
    pe: int
    fifo: int = 4
    relu: bool = True
    positive: bool = True
    accumulation: str = "auto"

    def blocks(self) -> dict[str, Block]:
        """Return the RTL blocks of the layer with random weights."""
        rng = torch.Generator().manual_seed(0)
        w = torch.randn(self.outputs, self.inputs, generator=rng) / math.sqrt(3 * self.inputs)
        b = (torch.rand(self.outputs, generator=rng) * 2 - 1) / math.sqrt(self.inputs)
        x = torch.randn(64, self.inputs, generator=rng)
        x = x.relu() if self.positive else x
        y = (x @ w.T + b).relu() if self.relu else x @ w.T + b
        attrs = {"accumulation": self.accumulation} | ({"activation": "relu"} if self.relu else {})
        formats = (_fit(self.x, x), fit(self.weight, w, "weight", Axes()), _fit(self.y, y))
        op = Linear.build("point", "point", 1, *formats, w, b, attrs=attrs, positive=self.positive)
        return op.blocks(self.simd, self.pe, {"": self.fifo, "normalise": self.fifo})


def _linear() -> Iterator[LinearCase]:
    for bits in (2, 3, 4, 5, 6, 8):  # products of every width, in LUTs up to 4 x 4
        fixed = f"fixed{bits}"
        yield LinearCase(fixed, fixed, fixed, 64, 64, 8, 8)
    for w, x in ((2, 6), (6, 2), (3, 5), (4, 3), (2, 4), (3, 4), (2, 3), (8, 4), (4, 8)):
        yield LinearCase(f"fixed{w}", f"fixed{x}", "fixed5", 48, 32, 8, 4, 3, positive=False)
    for simd, pe in ((1, 1), (2, 2), (4, 16), (16, 4), (32, 1), (1, 16), (6, 5), (12, 8)):
        yield LinearCase("fixed4", "fixed4", "fixed4", 64, 32, simd, pe, 6, relu=False)
    for simd, pe in ((1, 1), (4, 4), (2, 8), (16, 2)):  # powers of two, and a multiplier behind the accumulator
        yield LinearCase("int8p", "int8p", "int8p", 64, 32, simd, pe, 5)
        yield LinearCase("int6", "int6", "int6", 64, 32, simd, pe, 5)
    for simd, pe in ((4, 4), (8, 2), (3, 5)):
        yield LinearCase("int4", "int4", "int4", 64, 32, simd, pe, positive=False)
        yield LinearCase("int8", "int8", "int8", 64, 32, simd, pe, relu=False)
        yield LinearCase("int4p", "int6p", "int4p", 32, 16, simd, pe, relu=False)
    for simd, pe in ((64, 2), (32, 4), (16, 8), (32, 2), (8, 4)):  # few words: weights are nearly constants
        yield LinearCase("fixed3", "fixed4", "fixed4", 64 if simd > 8 else 16, 8, simd, pe)
        yield LinearCase("fixed6", "fixed6", "fixed6", 64 if simd > 8 else 16, 8, simd, pe)
    yield LinearCase("fixed4", "fixed4", "fixed4", 32, 8, 32, 8)
    yield LinearCase("fixed4", "fixed4", "fixed4", 32, 8, 16, 8)
    yield LinearCase("fixed3", "fixed4", "fixed4", 32, 8, 32, 4)
    yield LinearCase("fixed4", "fixed4", "fixed4", 32, 8, 8, 8)
    yield LinearCase("fixed4", "fixed4", "fixed4", 128, 128, 4, 8)  # block RAM
    yield LinearCase("fixed8", "fixed8", "fixed8", 128, 128, 4, 4)
    yield LinearCase("fixed4", "fixed4", "fixed4", 256, 16, 4, 4)
    yield LinearCase("fixed4", "fixed4", "fixed4", 128, 16, 2, 4)
    for bits, block, exp in ((4, 8, 4), (6, 8, 4), (4, 16, 4), (8, 16, 4), (6, 4, 3)):
        mx = f"mxint{bits}b{block}e{exp}"
        yield LinearCase(mx, mx, mx, 64, 32, 8, 8)
        yield LinearCase(mx, mx, mx, 64, 32, 4, 4, 6, relu=False, positive=False)
    mx4, mx6, mx8 = "mxint4b8e4", "mxint6b8e4", "mxint8b8e3"
    yield LinearCase(mx4, mx4, mx4, 64, 32, 16, 4)
    yield LinearCase(mx4, mx4, mx4, 64, 16, 32, 2)
    yield LinearCase(mx6, "fixed5", "fixed5", 64, 32, 8, 8)
    yield LinearCase("fixed5", mx6, mx6, 64, 32, 8, 8)
    yield LinearCase("int4", mx4, "int6", 64, 32, 8, 4)
    yield LinearCase("mxint4b16e4", "int6", mx6, 64, 32, 8, 8)
    yield LinearCase(mx8, mx8, mx8, 32, 16, 4, 4)
    for simd, pe, formats in ((8, 4, mx4), (4, 4, mx4), (4, 4, mx6), (8, 8, mx4), (16, 4, mx6)):  # aligned sums
        yield LinearCase(formats, formats, formats, 64, 32, simd, pe, accumulation="aligned(8)")


REQUANTIZE = (
    *(("fixed8", "fixed4"), ("fixed4", "fixed8"), ("int6", "fixed4"), ("mxint6b8e4", "fixed6"), ("mxint4b8e4", "int8")),
    *(("fixed8", "mxint4b8e4"), ("int8", "mxint6b8e4"), ("mxint8b8e4", "mxint4b8e4"), ("int8p", "int4p")),
)
CONVERTED = (  # format, columns, lanes in and out, FIFO
    *(("fixed4", 48, a, b, 3) for a, b in ((8, 4), (4, 8), (6, 4), (4, 6), (16, 2), (1, 8), (8, 1), (3, 5), (12, 8))),
    *(("fixed8", 48, 8, 4, 4), ("mxint4b8e4", 64, 8, 2, 3), ("mxint4b8e4", 64, 4, 8, 3), ("fixed6", 64, 16, 8, 3)),
    *(("mxint4b8e4", 64, 16, 64, 3), ("mxint4b8e4", 64, 8, 16, 3), ("fixed5", 32, 4, 32, 3), ("fixed8", 64, 8, 6, 3)),
)
ROMS = (  # bits, words
    *((64, words) for words in (4, 8, 16, 32, 40, 64, 100, 128, 200)),
    *((256, 64), (256, 128), (16, 64), (16, 256), (8, 512), (8, 1024), (4, 2048)),
)
NARROW = ((2, 2), (3, 2), (4, 2), (5, 2), (6, 2), (3, 3), (4, 3), (5, 3), (4, 4), (4, 1), (7, 1))


def points() -> list[Point]:
    """Return every point of the fit, the frame first."""
    found = [Point(FRAME, "frame_rom", {"Width": 8, "Depth": 1}, {"File": "00\n"}, framed=True)]
    for a, b in NARROW:
        params = {"Count": PRODUCTS, "XWidth": a, "WWidth": b}
        work = Work(multipliers=((PRODUCTS, a, b),), registers=PRODUCTS * (a + b))
        found.append(Point(f"product {a} x {b}", "frame_product", params, work=work, framed=True, product=(a, b)))
    for bits, words in ROMS:
        work = Work(roms=((bits, words),), counters=(words,))
        params = {"Width": bits, "Depth": words}
        found.append(Point(f"rom {bits} x {words}", "frame_rom", params, {"File": _weights(bits, words)}, work, True))
    for case in _linear():
        lanes = f"{case.inputs}x{case.outputs} at {case.simd}x{case.pe}"
        how = f"{'relu ' * case.relu}{'positive ' * case.positive}{case.accumulation}"
        name = f"linear {case.weight} {case.x} {case.y} {lanes} fifo {case.fifo} {how}"
        found += [of_block(f"{name} {role}".strip(), block) for role, block in case.blocks().items()]
    for (x, y), width in itertools.product(REQUANTIZE, (4, 8)):
        blocks = _requantize(x, y, 32).blocks(width, width, {"": 4, "normalise": 4})
        found += [of_block(f"requantize {x} {y} at {width} {role}".strip(), b) for role, b in blocks.items()]
    for text, cols, a, b, fifo in CONVERTED:
        found.append(of_block(f"convert {text} {cols} from {a} to {b}", _converter(text, cols, a, b, fifo)))
    return found


def of_block(name: str, block: Block) -> Point:
    """Return the point that a block alone makes."""
    images = {parameter: image.text() for parameter, image in block.memories().items()}
    return Point(name, block.sv_module, block.sv_params(), images, block.work())


def _fit(text: str, x: Tensor) -> tuple[Format, QuantParams]:
    return fit(text, x, "point")


def _requantize(x_text: str, y_text: str, cols: int) -> Requantize:
    x = torch.randn(64, cols, generator=torch.Generator().manual_seed(1))
    x_format, y_format = _fit(x_text, x), _fit(y_text, x)
    grid, out = activation_grid(*x_format, "point"), produced_grid(*y_format, "point")
    scale, target = (p.scale if g.scaled else None for g, (_, p) in ((grid, x_format), (out, y_format)))
    top = max(-grid.low, grid.high) << grid.span
    return Requantize(
        "point",
        1,
        cols,
        grid,
        Output.of(out, scale, target, grid.unit, top, False, "even", "point"),
        0,
        Travel.of((cols,)),
    )


def _converter(text: str, cols: int, a: int, b: int, fifo: int) -> WidthConverter:
    x = torch.randn(64, cols, generator=torch.Generator().manual_seed(1))
    grid = activation_grid(*_fit(text, x), "point")
    return WidthConverter(StreamType(1, cols, a, grid), StreamType(1, cols, b, grid), fifo=fifo)


def _weights(bits: int, words: int) -> str:
    """Return an image of weights of 4 bits: normal, scaled as the greatest of a few thousand would be."""
    rng = np.random.default_rng(0)
    codes = np.clip(np.rint(rng.standard_normal((words, bits // 4)) * 2), -8, 7).astype(np.int64)
    return "".join(f"{word:0{-(-bits // 4)}x}\n" for word in pack_words(codes, 4))
