"""The operator blocks under test, all compiled into one simulation, each with the codes that it is fed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import cocotb
import torch
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, FallingEdge
from torch import Tensor

from emit.verilog import library_files
from mase.blocks.affine import AffineUnit, Scaling
from mase.blocks.align import Align, Alignment
from mase.blocks.argmax import Argmax
from mase.blocks.block_normalise import BlockNormalise
from mase.blocks.cache import Cache
from mase.blocks.concat import Concat
from mase.blocks.decode import Decode
from mase.blocks.encode import Encode
from mase.blocks.fork import Fork
from mase.blocks.linear import LinearBlock
from mase.blocks.output import Output
from mase.blocks.pad import Border, Pad
from mase.blocks.pair import Pair, Pairing, Scale
from mase.blocks.piecewise import PiecewiseUnit, Polynomials
from mase.blocks.reduce import Reduce, Reduction
from mase.blocks.reorder import Nest, Order, Reorder
from mase.blocks.requantize import RequantizeBlock, Rescaling
from mase.blocks.root import Root, Roots, argument_width
from mase.blocks.row_scale import RowNorm, RowScale
from mase.blocks.row_stats import RowStats, Stats
from mase.blocks.slice import Cut, Slice
from mase.blocks.table import Table, index_bits
from mase.blocks.window import Window, Windows, least_buffer
from mase.dataflow.block import Block
from mase.dataflow.rounding import MODES, Rounding
from mase.dataflow.schedule import IN, Channel, Loop, run
from mase.dataflow.stream import StreamType
from mase.dataflow.width_converter import WidthConverter
from mase.formats import Axes, Code, Format, QuantParams, parse
from mase.formats.grid import Grid
from mase.formats.mxint import MXInt
from mase.netlist import SINK
from mase.ops.linear import Linear
from mase.paths import cache_dir
from tests.emit.designs import corners
from tests.hw.bench import Instance, bench
from tests.hw.stream import Beat, Stream, check_registered, cycle, receive, reset, run_block, send, start

SAMPLES = 4
BLOCK = "MASE_TESTED_BLOCK"  # in the environment of a simulation: module that it is of
ICARUS = getattr(cocotb, "SIM_NAME", "").startswith("Icarus")  # it knows undefined bits, but is slow
STALLS = ((0.4, 0.4),) if ICARUS else ((0.5, 0.0), (0.0, 0.6), (0.4, 0.4))


@dataclass(frozen=True, eq=False)
class Unit:
    """One block, and the codes that go in and come out, in order of its ports."""

    scope: str
    block: Block
    fed: tuple[Code, ...]
    given: tuple[Code, ...]

    @classmethod
    def of(cls, scope: str, block: Block) -> Unit:
        """Feed a block corners of codes."""
        draws = torch.Generator().manual_seed(9)
        fed = tuple(corners(stream, SAMPLES, draws) for stream in block.inputs.values())
        return cls(_scope(scope), block, fed, block.compute(*fed))

    @property
    def spreads(self) -> bool:
        """Whether a row leaves in several beats."""
        return len(self.block.outputs) == 1 and next(iter(self.block.outputs.values())).row_beats > 1

    def words(self) -> list[list[int]]:
        """Return the beats that go in, by input."""
        return [_beats(*pair) for pair in zip(self.block.inputs.values(), self.fed, strict=True)]

    def expected(self) -> list[list[tuple[int, int]]]:
        """Return the beats that come out, each with its ``last``, by output."""
        return [_marked(*pair) for pair in zip(self.block.outputs.values(), self.given, strict=True)]

    def completions(self) -> list[list[int]]:
        """Return the cycle of the last beat of each sample, counted from the first beat in, by output."""
        schedule = self.block.schedule()
        sinks, channels = [], list(schedule.channels)
        for port, stream in self.block.outputs.items():
            sinks.append(replace(SINK, name=f"sink of {port}", body=(Loop(stream.beats, SINK.body),)))
            channels.append(Channel(schedule.port(port), (sinks[-1].name, IN), self.block.depth(port)))
        return [list(found.completions) for found in run([*schedule.actors, *sinks], channels, SAMPLES).each]


def _marked(stream: StreamType, code: Code) -> list[tuple[int, int]]:
    return [(word, int(i % stream.beats == stream.beats - 1)) for i, word in enumerate(_beats(stream, code))]


def _beats(stream: StreamType, code: Code) -> list[int]:
    packed = stream.pack(code).reshape(-1, stream.bytes)
    return [int.from_bytes(beat.tobytes(), "little") for beat in packed]


def _formatted(text: str, x: Tensor) -> tuple[Format, QuantParams]:
    fmt = parse(text)
    return fmt, fmt.calibrate(x, fmt.along(Axes()))


def linear(
    formats: tuple[str, str, str], sizes: tuple[int, int, int], lanes: tuple[int, int], fifo: int, **attrs: str
) -> Unit:
    """Return a linear unit with formats of (input, weight, output) and sizes (rows, inputs, outputs)."""
    torch.manual_seed(sum(sizes))
    rows, inputs, outputs = sizes
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    x, w, y = (_formatted(text, data) for text, data in zip(formats, (bias, weight, 2 * bias), strict=True))
    op = Linear.build("unit", "unit", rows, x, w, y, weight, bias, attrs={"accumulation": "auto", **attrs})
    block = LinearBlock(op, *lanes, fifo=fifo)
    scope = "_".join(["linear", *map(str, (*sizes, *lanes, fifo)), *formats, *attrs.values()])
    return Unit.of(scope, block)


def parts(
    name: str,
    formats: tuple[str, str, str],
    sizes: tuple[int, int, int, int, int],
    lanes: tuple[int, int],
    fifo: int,
) -> Unit:
    """Return a linear unit on rows of several parts, of several sets: sizes (rows, taps, columns, outputs, sets)."""
    torch.manual_seed(sum(sizes))
    rows, taps, cols, outputs, sets = sizes
    weight, bias = torch.randn(outputs, taps * cols), torch.randn(outputs)
    x, w, y = (_formatted(text, data) for text, data in zip(formats, (bias, weight, 2 * bias), strict=True))
    if w[0].weight_grid(w[1], "unit").block:  # blocks lie along the columns of a part
        w = w[0], w[0].calibrate(weight.unflatten(1, (taps, cols)))
        weight = weight.unflatten(1, (taps, cols))
    op = Linear.build(
        "unit",
        "unit",
        rows,
        x,
        w,
        y,
        weight,
        bias,
        attrs={"accumulation": "aligned(2)" if "blocks" in name else "exact"},
        parts=lambda t: t if t.ndim == 3 else t.unflatten(1, (taps, -1)),
        sets=sets,
    )
    return Unit.of("_".join(["parts", name, *map(str, (*sizes, *lanes, fifo))]), LinearBlock(op, *lanes, fifo=fifo))


def requantize(
    source: str, target: str, cols: int, lanes: int, fifo: int, mode: str = "even", relu: bool = False, ceiling: int = 0
) -> Unit:
    """Return a requantize unit on two rows a sample."""
    torch.manual_seed(cols)
    (fx, px), (fy, py) = (_formatted(text, torch.randn(8, cols)) for text in (source, target))
    x, y = fx.grid(px, "unit").plain, fy.grid(py, "unit")
    scales = px.scale if x.scaled else None, py.scale if y.scaled else None
    out = Output.of(y, *scales, x.unit, max(-x.low, x.high) << x.span, relu, mode, "unit")
    block = RequantizeBlock(Rescaling("unit", 2, cols, x, out, ceiling), lanes, fifo=fifo)
    return Unit.of(f"requantize_{source}_{target}_{cols}_{lanes}_{fifo}_{mode}", block)


def normalise(cols: int, lanes: int, size: int, width: int, exp_bits: int, unit: int, fifo: int) -> Unit:
    """Return a block normaliser of 14-bit integers on two rows a sample."""
    grid = MXInt(width, size, exp_bits).grid(QuantParams(base=torch.tensor(-3)), "unit")
    block = BlockNormalise(2, cols, lanes, 14, unit, grid, fifo=fifo)
    return Unit.of(f"normalise_{cols}_{lanes}_{size}_{width}_{exp_bits}_{unit}_{fifo}", block)


def normalise_to(text: str, cols: int, lanes: int, unit: int, fifo: int) -> Unit:
    """Return a block normaliser of 14-bit integers, into a format with base -3, on two rows a sample."""
    grid = parse(text).grid(QuantParams(base=torch.tensor(-3)), "unit")
    block = BlockNormalise(2, cols, lanes, 14, unit, grid, fifo=fifo)
    return Unit.of(f"normalise_{text}_{cols}_{lanes}_{unit}_{fifo}", block)


def encode(text: str, width: int, lanes: int, unit: int, fifo: int) -> Unit:
    """Return an encoder that is fed all integers of a width, in two rows a sample."""
    grid = parse(text).grid(QuantParams(), "unit")
    size = -(-(1 << width) // (2 * SAMPLES))
    block = Encode(2, size, lanes, width, unit, grid, fifo=fifo)
    low = -(1 << width - 1)
    code = Code((torch.arange(2 * SAMPLES * size).reshape(SAMPLES, 2, size) + low).clamp(max=-low - 1))
    scope = _scope(f"encode_{text}_{width}_{lanes}_{unit}_{fifo}".replace("-", "m"))
    return Unit(scope, block, (code,), block.compute(code))


def decode(text: str, cols: int, lanes: int, fifo: int) -> Unit:
    """Return a decoder on two rows a sample, fed with all codes where they fit."""
    fmt = parse(text)
    grid = fmt.grid(fmt.calibrate(torch.linspace(-1, 3, 32)), "unit")
    unit = Unit.of(f"decode_{text}_{cols}_{lanes}_{fifo}", Decode(2, cols, lanes, grid, fifo=fifo))
    every = torch.arange(SAMPLES * 2 * cols).reshape(SAMPLES, 2, cols) % (grid.high - grid.low + 1) + grid.low
    fed = Code(every, unit.fed[0].exponent)
    return replace(unit, fed=(fed,), given=unit.block.compute(fed))


def convert(before: tuple[int, int, int], after: tuple[int, int, int], size: int, fifo: int) -> Unit:
    """Return a converter between streams (rows, cols, lanes); size of a block, or 0."""
    block = WidthConverter(StreamType(*before, _grid(size)), StreamType(*after, _grid(size)), fifo=fifo)
    return Unit.of("_".join(map(str, ("convert", *before, *after, size, fifo))), block)


def fork(shape: tuple[int, int, int], size: int, depth_a: int, depth_b: int) -> Unit:
    """Return a fork of a stream (rows, cols, lanes); size of a block, or 0."""
    depths = {"a": depth_a, "b": depth_b}
    return Unit.of(
        "_".join(map(str, ("fork", *shape, size, *depths.values()))), Fork(StreamType(*shape, _grid(size)), depths)
    )


def pair(
    formats: tuple[str, str, str], cols: int, lanes: int, fifo: int, join: str = "add", mode: str = "even"
) -> Unit:
    """Return a sum, difference or product of formats (a, b, result) on two rows a sample; ``relu`` after a space."""
    torch.manual_seed(cols)
    found = [_formatted(text, torch.randn(8, cols)) for text in formats]
    a, b, y = (fmt.grid(params, "unit") for fmt, params in found)
    scale = Scale(*(params.scale if grid.scaled else None for grid, (_, params) in zip((a, b, y), found, strict=True)))
    how = scale, join.endswith("relu"), mode, "unit"
    if join.startswith("mul"):
        pairing, out = Pairing.of_product(a, b, y, *how)
    else:
        pairing, out = Pairing.of_sum(a, b, y, scale, join.startswith("sub"), *how[1:])
    block = Pair(2, cols, lanes, pairing, out, fifo=fifo)
    return Unit.of("_".join(map(str, ("pair", *formats, cols, lanes, fifo, join.replace(" ", "_"), mode))), block)


def join(a: tuple[int, int], b: tuple[int, int], lanes: int, outer: int, wide: bool, size: int, fifo: int) -> Unit:
    """Return a concat of streams (rows, cols); size of a block, or 0."""
    block = Concat(StreamType(*a, lanes, _grid(size)), StreamType(*b, lanes, _grid(size)), outer, wide, fifo=fifo)
    return Unit.of("_".join(map(str, ("join", *a, *b, lanes, outer, size, fifo))), block)


def keep(source: tuple[int, int, int], cut: tuple[int, int, int, int, int, int], size: int, fifo: int) -> Unit:
    """Return a slice of a stream (rows, cols, lanes); size of a block, or 0."""
    block = Slice(StreamType(*source, _grid(size)), Cut(*cut), fifo=fifo)
    return Unit.of("_".join(map(str, ("keep", *source, *cut, size, fifo))), block)


def reorder(
    before: tuple[int, int],
    after: tuple[int, int],
    lanes: int,
    loops: tuple[tuple[int, int], ...],
    start: int = 0,
    size: int = 0,
    fifo: int = 3,
) -> Unit:
    """Return a reorder buffer between streams (rows, cols) with loops of (times, stride); size of a block, or 0."""
    order = Order(Nest(start, loops), before[0] * before[1], before[1], after[1])
    block = Reorder(StreamType(*before, lanes, _grid(size)), StreamType(*after, lanes, _grid(size)), order, fifo=fifo)
    return Unit.of("_".join(map(str, ("reorder", *before, *after, lanes, len(loops), start, size, fifo))), block)


def _grid(size: int) -> Grid:
    """Return a grid of 5 bits with blocks of a size, or none."""
    return MXInt(5, size, 3).grid(QuantParams(base=torch.tensor(0)), "unit") if size else Grid(5, True, -16, 15)


def _image(size: tuple[int, int], cols: int, lanes: int, block: int) -> StreamType:
    """Return the stream of an image of 5-bit codes; size of a block, or 0."""
    grid = MXInt(5, block, 3).grid(QuantParams(base=torch.tensor(-1)), "unit") if block else Grid(5, True, -16, 15)
    return StreamType(size[0] * size[1], cols, lanes, grid)


def bordered(
    size: tuple[int, int],
    border: Border,
    cols: int,
    lanes: int,
    fifo: int,
    block: int = 0,
    code: tuple[int, int] = (0, 0),
) -> Unit:
    """Return a border around images; size of a block, or 0; code: mantissa and exponent of the border."""
    block_of = Pad(_image(size, cols, lanes, block), size, border, *code, fifo=fifo)
    parts = ("pad", *size, *border, cols, lanes, block, *(abs(n) for n in code), fifo)
    return Unit.of("_".join(map(str, parts)), block_of)


def windows(
    where: Windows, cols: int, lanes: int, fifo: int, block: int = 0, groups: int = 1, pace: int = 1, more: int = 0
) -> Unit:
    """Return windows of images; pace: cycles of a beat that the buffer is for; more: slots than the least."""
    source = _image(where.image, cols, lanes, block)
    read = where.taps * source.row_beats
    buffer = least_buffer(where, source.row_beats, read * pace, read) + more
    window = Window(source, where, buffer, groups, fifo=fifo)
    pairs = [n for pair in (where.image, where.kernel, where.stride, where.dilation) for n in pair]
    parts = ("window", *pairs, cols, lanes, block, groups, buffer, fifo)
    return Unit.of("_".join(map(str, parts)), window)


def table(shape: tuple[int, int, int], size: int, width: int, fifo: int) -> Unit:
    """Return a table of random words of a width, in front of a stream (rows, cols, lanes); size of a block, or 0."""
    source = StreamType(*shape, _grid(size))
    words = torch.randint(1, 1 << width, (1 << index_bits(source.grid),), generator=torch.Generator().manual_seed(3))
    target = StreamType(*shape, Grid(width, False, 0, (1 << width) - 1))
    return Unit.of("_".join(map(str, ("table", *shape, size, width, fifo))), Table(source, target, words, fifo=fifo))


def affine(
    shape: tuple[int, int, int], size: int, target: str, fifo: int, mode: str = "even", relu: bool = False, own: int = 0
) -> Unit:
    """Return scales and shifts of a stream (rows, cols, lanes); size of a block, or 0; own: of each row."""
    torch.manual_seed(sum(shape))
    fmt, params = _formatted(target, 4 * torch.randn(8, 8))
    y, (rows, cols, lanes) = fmt.grid(params, "unit"), shape
    scale, shift = (torch.randn(rows if own else 1, cols).double().expand(rows, cols) for _ in range(2))
    scaling = Scaling.of(_grid(size), y, (None, params.scale if y.scaled else None), scale, shift, relu, mode, "unit")
    scope = "_".join(map(str, ("affine", *shape, size, target, fifo, mode, own)))
    return Unit.of(scope, AffineUnit(scaling, lanes, fifo=fifo))


def argmax(shape: tuple[int, int, int], size: int, fifo: int, signed: bool = True) -> Unit:
    """Return the search for the greatest of each row of a stream (rows, cols, lanes); size of a block, or 0."""
    grid = _grid(size) if signed else Grid(3, False, 0, 7)
    block = Argmax(*shape, grid, (1, shape[0]), fifo=fifo)
    return Unit.of("_".join(map(str, ("argmax", *shape, size, int(signed), fifo))), block)


def kept(shape: tuple[int, int, int], keep_rows: int, size: int, fifo: int) -> Unit:
    """Return a cache of rows of a stream (rows, cols, lanes); size of a block, or 0."""
    block = Cache(StreamType(*shape, _grid(size)), keep_rows, fifo=fifo)
    return Unit.of("_".join(map(str, ("cache", *shape, keep_rows, size, fifo))), block)


def row_stats(shape: tuple[int, int, int], size: int, centred: bool, fifo: int, eps: int = 1) -> Unit:
    """Return the statistics of rows of a stream (rows, cols, lanes); size of a block, or 0."""
    rows, cols, lanes = shape
    block = RowStats(rows, lanes, Stats(cols, _grid(size), centred, eps), fifo=fifo)
    return Unit.of("_".join(map(str, ("row_stats", *shape, size, int(centred), eps, fifo))), block)


def root(rows: int, roots: Roots, unroll: int, fifo: int, also: int = 0) -> Unit:
    """Return roots of numbers from 1 to the greatest, small ones as often as great ones."""
    width = argument_width(roots.most, also)
    lanes = 2 if also else 1
    source = StreamType(rows, lanes, lanes, Grid(width, True, -(1 << width - 1), (1 << width - 1) - 1))
    block = Root(source, roots, also, unroll, fifo=fifo)
    draw = torch.Generator().manual_seed(rows)
    sizes = 2.0 ** (torch.rand(SAMPLES, rows, 1, generator=draw, dtype=torch.float64) * roots.most.bit_length())
    numbers = sizes.long().clamp(1, roots.most)
    numbers[0, 0], numbers[-1, -1] = roots.most, 1
    beside = torch.randint(-1 << also - 1, 1 << also - 1, numbers.shape, generator=draw) if also else numbers[..., :0]
    fed = Code(torch.cat([numbers, beside], -1))
    scope = _scope(
        "_".join(map(str, ("root", rows, roots.power, roots.bits, roots.top, roots.most, unroll, also, fifo)))
    )
    return Unit(scope, block, (fed,), block.compute(fed))


def row_scale(
    shape: tuple[int, int, int],
    size: int,
    target: str,
    centred: bool,
    fifo: int,
    mode: str = "even",
    relu: bool = False,
) -> Unit:
    """Return the last step of a norm of rows of a stream (rows, cols, lanes), fed with the factors of its rows."""
    rows, cols, lanes = shape
    torch.manual_seed(sum(shape))
    fmt, params = _formatted(target, torch.randn(8, 8))
    y, scale = fmt.grid(params, "unit"), float(params.scale) if params.scale is not None else 1.0
    constants = (torch.randn(cols).double(), torch.randn(cols).double())
    norm = RowNorm.of((rows, cols), _grid(size), y, (1.0, scale), constants, 1e-5, centred, relu, mode, "unit")
    block = RowScale(norm, lanes, fifo=fifo)
    x = corners(block.inputs["x"], SAMPLES, torch.Generator().manual_seed(9))
    stats = RowStats(rows, lanes, norm.stats)
    factors = Root(stats.stream_out, norm.roots, norm.stats.sum_bits).compute(*stats.compute(x))
    scope = _scope("_".join(map(str, ("row_scale", *shape, size, target, int(centred), fifo, mode))))
    return Unit(scope, block, (x, *factors), block.compute(x, *factors))


def piecewise(shape: tuple[int, int, int], degree: int, target: str, fifo: int, signed: bool = True) -> Unit:
    """Return random polynomials on 8 segments of 8-bit codes, on a stream (rows, cols, lanes)."""
    fmt, params = _formatted(target, torch.randn(8, 8))
    rows, cols, lanes = shape
    drawn = torch.randint(-500, 500, (degree + 1, 8), generator=torch.Generator().manual_seed(degree))
    polynomials = Polynomials(8, signed, 3, drawn, 4, 3)
    top = int(polynomials.integers(polynomials.every_code).abs().max())
    x = Grid(8, signed, -128 * signed, 255 - 128 * signed)
    out = Output.of(fmt.grid(params, "unit"), None, None, -8, top, False, "even", "unit")
    scope = "_".join(map(str, ("piecewise", *shape, degree, target, int(signed), fifo)))
    return Unit.of(scope, PiecewiseUnit(rows, cols, lanes, x, polynomials, out, fifo=fifo))


def reduced(
    shape: tuple[int, int, int],
    lanes: int,
    fifo: int,
    source: str,
    target: str,
    maximum: bool = False,
    weight: int = 0,
    relu: bool = False,
    powers: bool = False,
) -> Unit:
    """Return a reduction of (groups, taps, cols); weight: bits of its weights, or greatest shift; 0: none."""
    groups, taps, cols = shape
    torch.manual_seed(sum(shape))
    (fx, px), (fy, py) = (_formatted(text, torch.randn(8, cols)) for text in (source, target))
    x, y = fx.grid(px, "unit"), fy.grid(py, "unit")
    high = (1 << weight) >> 1
    weights = torch.randint(-high, high, (taps, cols)) if weight else None
    if powers:
        weights = torch.randint(-1, 2, (taps, cols)) << torch.randint(0, weight + 1, (taps, cols))
    bias = torch.randint(-99, 99, (cols,)) if weight else None
    reduction = Reduction(x, x.low, taps, cols, maximum, weights, bias, powers)
    scale = px.scale if x.scaled else None
    if weight and scale is not None:
        scale = scale * (1 + torch.rand(cols))  # a multiplier a column
    out = Output.of(y, scale, py.scale if y.scaled else None, x.unit, reduction.bound, relu, "even", "unit")
    parts = ("reduce", *shape, lanes, fifo, source, target, maximum, weight, powers)
    return Unit.of("_".join(map(str, parts)), Reduce(groups, lanes, reduction, out, fifo=fifo))


def aligned(
    shape: tuple[int, int, int], lanes: int, fifo: int, source: str, target: str, guard: int, weight: int = 0
) -> Unit:
    """Return a reduction of aligned rows; shape and weight as of :func:`reduced`."""
    groups, taps, cols = shape
    torch.manual_seed(sum(shape))
    (fx, px), (fy, py) = (_formatted(text, torch.randn(8, cols)) for text in (source, target))
    x, y, high = fx.grid(px, "unit"), fy.grid(py, "unit"), (1 << weight) >> 1
    weights, bias, own, least = None, None, None, None
    if weight:
        weights, bias = torch.randint(-high, high, (taps, cols)), torch.randint(-99, 99, (cols,))
        own = torch.randint(0, 3, (cols,))
        padded = torch.nn.functional.pad(own, (0, -cols % x.block))
        least = padded.unflatten(0, (-1, x.block)).amax(1)
    alignment = Alignment(x, taps, guard, least)
    reduction = Reduction(x, x.low, taps, cols, False, weights, bias, alignment=alignment, bias_exp=own)
    out = Output.of(y, None, py.scale if y.scaled else None, x.unit - guard, reduction.bound, True, "even", "unit")
    block = Reduce(groups, lanes, reduction, out, fifo=fifo)
    rows = corners(StreamType(groups * taps, cols, lanes, x), SAMPLES, torch.Generator().manual_seed(9))
    fed = alignment.apply(rows)  # a group comes with one exponent
    scope = _scope("_".join(map(str, ("reduce_aligned", *shape, lanes, fifo, source, target, guard, weight))))
    return Unit(scope, block, (fed,), block.compute(fed))


def align(shape: tuple[int, int, int], lanes: int, fifo: int, source: str, guard: int, floors: bool = False) -> Unit:
    """Return an aligner of (groups, taps, cols), with exponents that those of a group are never below."""
    groups, taps, cols = shape
    fx, px = _formatted(source, torch.randn(8, cols))
    x = fx.grid(px, "unit")
    blocks = -(-cols // x.block)
    least = torch.arange(blocks) % (x.span + 1) if floors else None
    scope = "_".join(map(str, ("align", *shape, lanes, fifo, source, guard, int(floors))))
    return Unit.of(scope, Align(groups, cols, lanes, Alignment(x, taps, guard, least), fifo=fifo))


def _scope(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text).replace("__", "_").strip("_")


def pairs() -> tuple[Unit, ...]:
    """Return sums and products: units apart, dyadics, exponents shifted, cut, multiplied; results in blocks."""
    return (
        pair(("fixed6.4", "fixed5.2", "fixed4.1"), 7, 3, 5),
        pair(("ufixed5.1", "fixed6.5", "fixed9.6"), 1, 1, 2, "sub", "half_up"),
        pair(("int5", "int6", "ufixed4.2"), 4, 4, 7, "sub relu", "trunc"),
        pair(("mxint5b4e3", "mxint4b2e2", "mxint4b8e3"), 9, 2, 3, "add relu"),
        pair(("mxint6b4", "fixed5.2", "int5"), 6, 4, 4, "sub", "half_up"),
        pair(("int5", "mxint5b2", "fixed6.3"), 5, 4, 8),
        pair(("fixed6.4", "ufixed5.4", "fixed6.3"), 7, 3, 2, "mul", "trunc"),
        pair(("int5", "fixed4.2", "int4"), 3, 2, 6, "mul relu"),
        pair(("mxint5b4e3", "mxint4b2e2", "mxint4b4e3"), 6, 2, 4, "mul"),
        pair(("mxint4b2e5", "ufixed6.4", "int5"), 5, 1, 5, "mul", "half_up"),
    )


def layouts() -> tuple[Unit, ...]:
    """Return joins, cuts and reorder buffers: one row, many, elements of rows, blocks, tails."""
    return (
        join((1, 1), (1, 1), 1, 1, False, 0, 2),
        join((4, 7), (2, 7), 3, 2, False, 0, 2),
        join((3, 4), (3, 5), 2, 3, True, 0, 3),
        join((2, 8), (2, 6), 4, 2, True, 4, 2),
        keep((6, 5, 2), (2, 3, 1, 1, 1, 2), 0, 2),
        keep((12, 3, 3), (1, 6, 2, 1, 2, 3), 0, 3),
        keep((2, 9, 3), (2, 9, 0, 3, 1, 6), 0, 2),
        keep((3, 7, 1), (3, 7, 0, 0, 3, 3), 0, 2),
        keep((2, 8, 4), (2, 8, 0, 4, 1, 4), 2, 2),
        keep((4, 6, 4), (4, 1, 1, 0, 1, 1), 4, 5),
        reorder((3, 4), (4, 3), 1, ((4, 1), (3, 4))),
        reorder((6, 5), (6, 5), 2, ((3, 5), (2, 15), (5, 1)), fifo=2),
        reorder((2, 8), (4, 4), 4, ((2, 4), (2, 8), (4, 1)), size=2),
        reorder((2, 12), (6, 4), 1, ((2, 6), (3, 2), (2, 12), (2, 1)), fifo=5),
        reorder((3, 2), (6, 2), 2, ((3, -2), (2, 0), (2, 1)), start=4),
        reorder((1, 1), (1, 1), 1, (), fifo=2),
        reorder((2, 3), (24, 3), 3, ((2, 0), (3, 0), (2, 3), (2, 0), (3, 1))),
    )


@cache
def units() -> tuple[Unit, ...]:
    """Return all blocks: sizes 1, primes and what lanes do not divide; every class of formats; least and deep FIFOs."""
    return (
        linear(("fixed6.4", "fixed5.4", "fixed6.3"), (1, 1, 1), (1, 1), 2),
        linear(("ufixed4.4", "ufixed3.2", "ufixed5.2"), (2, 7, 5), (2, 3), 3, rounding="half_up"),
        linear(("int5", "int4c", "int6"), (3, 5, 4), (8, 8), 8, activation="relu", rounding="trunc"),
        linear(("mxint5b4e3", "mxint4b2e3", "fixed7.3"), (1, 11, 3), (4, 2), 2, accumulation="exact"),
        linear(("mxint5b4e4", "mxint4b8e4", "int7"), (2, 13, 3), (2, 1), 5, accumulation="aligned(3)"),
        linear(("mxint4b2e3", "int4p", "fixed6.2"), (1, 9, 2), (4, 2), 4, accumulation="aligned(0)"),
        linear(("fixed6.4", "int4", "mxint4b4e3"), (2, 3, 7), (3, 2), 3, activation="relu"),
        linear(("fixed6.4", "binary", "fixed6.3"), (2, 6, 4), (3, 2), 2),
        linear(("ufixed5.4", "binaryc", "int6"), (2, 5, 3), (2, 2), 4),  # zeros beyond the end
        linear(("int5", "ternary", "mxint5b2e3"), (1, 6, 4), (6, 2), 3),
        linear(("mxint5b2e3", "ternaryc", "fixed7.3"), (2, 4, 3), (4, 1), 4),
        linear(("fixed6.4", "log4", "fixed6.2"), (2, 6, 4), (3, 2), 3),
        linear(("fixed6.4", "int4g4", "int6"), (2, 10, 3), (4, 2), 3),
        linear(("ufixed5.4", "int3g2a", "fixed6.2"), (1, 6, 4), (6, 1), 2),
        linear(("mxint5b4e3", "int4g2", "fixed7.3"), (2, 8, 2), (8, 2), 4, accumulation="exact"),
        linear(("fixed6.4", "nvfp4b4", "mxint5b2e3"), (1, 11, 4), (2, 2), 3),
        linear(("mxint5b4e4", "nvfp4b8", "int7"), (2, 13, 3), (4, 1), 5, accumulation="aligned(3)"),
        linear(("fixed6.4", "mxfp4b4", "fixed6.2"), (2, 6, 3), (2, 3), 3),
        linear(("int5", "e3m2", "fixed6.2"), (1, 5, 2), (3, 1), 3),
        linear(("ufixed5.4", "log3", "int6"), (1, 5, 3), (4, 2), 2),
        linear(("fixed6.4", "log6", "fixed6.2"), (1, 4, 2), (2, 1), 3),
        parts("plain", ("fixed6.4", "int5c", "int6"), (2, 3, 5, 4, 1), (2, 3), 4),
        parts("blocks", ("mxint5b4e3", "mxint4b4e2", "fixed7.3"), (2, 3, 6, 3, 1), (2, 2), 3),
        parts("exact", ("int5", "mxint4b8e2", "mxint5b2e3"), (1, 4, 5, 2, 1), (1, 2), 2),
        parts("sets", ("fixed6.4", "int5c", "int6"), (2, 2, 4, 6, 3), (2, 1), 4),
        parts("set_blocks", ("mxint5b2e3", "mxint4b4e2", "fixed7.3"), (2, 2, 4, 4, 2), (4, 2), 5),
        requantize("fixed6.4", "fixed4.1", 7, 3, 2),
        requantize("int5", "ufixed4.3", 1, 1, 6, "half_up", relu=True),
        requantize("mxint5b2e3", "int4", 5, 4, 5, "trunc"),
        requantize("mxint5b4e3", "mxint4b4e2", 6, 2, 3, relu=True),
        requantize("mxint5b2e3", "mxint5b2e3", 7, 2, 4, relu=True, ceiling=24),
        normalise(7, 1, 1, 4, 4, -2, 2),
        normalise(13, 2, 8, 8, 2, -12, 3),
        normalise(5, 8, 4, 2, 8, 0, 7),
        normalise(9, 4, 4, 6, 3, 7, 4),
        normalise(1, 2, 2, 16, 5, -40, 2),
        requantize("int5a", "int4a", 6, 3, 2),
        requantize("fixed6.2", "int5pa", 6, 2, 4, "half_up", relu=True),
        requantize("mxint4b2e2", "e3m2", 6, 4, 3),
        normalise_to("bfp5b4e3", 9, 2, -6, 2),
        normalise_to("bfp4b2e4_xfloor_tc", 7, 4, -9, 5),
        normalise_to("bfp8b4e8", 6, 4, 0, 2),
        normalise_to("bm6e3b4s3", 9, 2, -8, 3),
        normalise_to("mxfp4b4", 10, 8, -3, 2),
        normalise_to("mxfp8e4m3b8_xceil", 9, 4, -20, 6),
        normalise_to("mxfp8e5m2b2", 5, 1, 7, 2),
        normalise_to("mxfp5e4m0b2", 5, 2, -7, 2),
        normalise_to("bm4e2b4s2", 4, 4, -60, 2),
        encode("e4m3", 12, 8, -10, 6),
        encode("e5m2", 11, 4, -30, 2),
        encode("e2m1", 8, 3, -2, 3),
        encode("e2m1", 6, 1, -9, 2),
        encode("e3m0", 7, 4, -4, 4),
        encode("e1m2", 8, 4, -1, 2),
        encode("e2m3", 5, 4, 6, 2),
        encode("e8m1", 4, 1, 3, 2),
        decode("int5a", 5, 3, 2),
        decode("e2m1", 9, 4, 3),
        decode("e3m0", 8, 2, 2),
        decode("e4m3", 33, 8, 4),
        decode("e5m2", 32, 5, 2),
        decode("mxfp4b4", 9, 2, 2),
        decode("mxfp4b2", 7, 4, 2),
        decode("mxfp8e5m2b4", 33, 4, 2),
        decode("log4", 5, 4, 2),
        decode("bl3b2s4", 7, 4, 3),
        decode("nvfp4b4", 35, 2, 3),
        decode("nvfp4l1b2", 37, 8, 2),
        convert((2, 12, 4), (2, 12, 6), 0, 3),
        convert((3, 7, 3), (3, 7, 7), 0, 2),
        convert((2, 13, 8), (2, 13, 2), 4, 4),
        convert((2, 9, 1), (2, 9, 8), 8, 2),
        convert((3, 8, 4), (1, 24, 16), 2, 3),
        convert((1, 10, 3), (5, 2, 1), 0, 5),
        *layouts(),
        *pairs(),
        fork((1, 1, 1), 0, 2, 2),
        fork((2, 7, 3), 0, 2, 9),
        fork((3, 6, 2), 4, 5, 3),
        bordered((2, 3), Border(1, 0, 2, 1), 5, 2, 4),
        bordered((3, 1), Border(0, 2, 0, 0), 4, 4, 2, code=(-16, 0)),
        bordered((1, 4), Border(1, 1, 1, 1), 3, 4, 3, block=2, code=(-15, 5)),
        bordered((2, 2), Border(0, 0, 0, 3), 7, 2, 5, block=4, code=(3, 7)),
        bordered((1, 3), Border(0, 1, 1, 0), 5, 4, 4, block=2, code=(1, 6)),
        windows(Windows((5, 7), (3, 3)), 1, 1, 4),
        windows(Windows((7, 5), (2, 3), (2, 1)), 5, 2, 2),
        windows(Windows((5, 6), (2, 2), (3, 3)), 3, 2, 3, pace=4),  # gaps between windows, tails below and right
        windows(Windows((7, 6), (1, 1), (3, 2)), 2, 2, 4, more=3),
        windows(Windows((7, 7), (3, 2), (1, 2), (2, 3)), 3, 4, 4, block=2),
        windows(Windows((1, 11), (1, 3), (1, 2), (1, 2)), 4, 1, 3),
        windows(Windows((4, 4), (4, 4)), 2, 1, 5, pace=9),  # one window: the whole image
        windows(Windows((4, 5), (3, 3)), 12, 2, 4, block=2, groups=3),
        windows(Windows((3, 3), (1, 1), (2, 2)), 1, 1, 2, pace=9),  # one slot
        table((1, 1, 1), 0, 3, 2),
        table((2, 7, 3), 0, 9, 4),
        table((3, 6, 3), 0, 5, 3),  # no tails
        table((2, 5, 8), 4, 7, 4),  # one beat a row
        table((2, 9, 2), 4, 6, 5),
        affine((1, 1, 1), 0, "fixed6.2", 2),
        affine((2, 7, 3), 0, "ufixed5.2", 6, "half_up", relu=True),
        affine((3, 5, 2), 0, "fixed7.3", 5, "trunc", own=1),
        affine((2, 9, 4), 4, "fixed8.2", 4),
        affine((2, 6, 2), 2, "mxint4b4e3", 6, relu=True),
        argmax((1, 1, 1), 0, 2),
        argmax((3, 7, 3), 0, 2),
        argmax((2, 5, 8), 4, 3),
        argmax((3, 9, 2), 4, 4),
        argmax((4, 6, 5), 0, 2, signed=False),
        kept((1, 1, 1), 1, 0, 2),
        kept((4, 5, 2), 4, 0, 3),
        kept((5, 3, 3), 3, 0, 2),
        kept((3, 6, 2), 2, 4, 5),
        kept((6, 1, 1), 1, 0, 4),
        row_stats((1, 1, 1), 0, True, 2),
        row_stats((3, 7, 3), 0, True, 2, eps=1 << 33),
        row_stats((2, 9, 4), 2, True, 4),
        row_stats((4, 6, 6), 0, False, 8),
        row_stats((3, 5, 2), 2, False, 3, eps=77),
        root(3, Roots(2, 9, 250000, 3000), 1, 2),
        root(4, Roots(1, 7, 90, 200), 2, 3, also=4),
        root(5, Roots(2, 19, (1 << 37) + 12345, (1 << 30) + 5), 4, 4, also=40),
        root(1, Roots(1, 31, (1 << 61) + 99, 1 << 60), 2, 2),
        row_scale((1, 1, 1), 0, "fixed9.5", True, 2),
        row_scale((3, 7, 3), 0, "fixed6.3", True, 7, "half_up"),
        row_scale((2, 9, 4), 4, "int6", False, 3),
        row_scale((2, 6, 2), 0, "mxint5b4e3", True, 8),
        row_scale((3, 5, 5), 0, "ufixed6.3", False, 2, "trunc", relu=True),
        piecewise((1, 1, 1), 2, "fixed6.2", 2),
        piecewise((2, 7, 3), 1, "fixed9.4", 5),
        piecewise((2, 5, 2), 2, "ufixed7.3", 6, signed=False),
        piecewise((2, 6, 4), 2, "mxint5b4e3", 3),
        reduced((1, 1, 1), 1, 2, "fixed5.2", "fixed5.2", maximum=True),
        reduced((2, 3, 7), 2, 5, "fixed5.2", "fixed5.2", maximum=True),
        reduced((3, 4, 5), 2, 3, "mxint5b2e3", "mxint4b4e4", maximum=True),
        reduced((3, 2, 3), 4, 4, "ufixed4.3", "fixed5.2"),
        reduced((2, 9, 6), 4, 5, "mxint4b4e3", "int6"),
        reduced((2, 3, 5), 2, 6, "int5", "int5", weight=4, relu=True),
        reduced((3, 2, 4), 4, 3, "fixed5.2", "mxint4b2e3", weight=3),
        reduced((2, 3, 5), 2, 4, "fixed5.2", "fixed6.1", weight=4, powers=True),
        aligned((2, 3, 5), 2, 5, "mxint5b2e3", "mxint4b2e3", 4),
        aligned((3, 2, 4), 4, 3, "mxint4b2e4", "fixed6.2", 2, weight=3),
        aligned((2, 4, 6), 2, 4, "mxint4b4e4", "int5", 3, weight=4),
        aligned((1, 9, 1), 1, 2, "mxint5b1e5", "mxint5b1e5", 8),
        align((1, 1, 1), 1, 2, "mxint4b1e2", 0),
        align((2, 3, 5), 2, 5, "mxint5b2e3", 4),
        align((3, 2, 7), 2, 3, "mxint4b4e4", 2, floors=True),
        align((2, 4, 6), 4, 5, "mxint6b2e5", 8, floors=True),
        *(unit for module in own() for unit in module.units()),
    )


@cache
def own() -> tuple[Any, ...]:  # Any: modules
    """Return the files ``tests/hw/<block>/units.py``: each has ``units()``, and ``MUTANTS`` for test_mutants.py."""
    files = sorted(Path(__file__).parent.glob("*/units.py"))
    return tuple(import_module(f"tests.hw.{file.parent.name}.units") for file in files)


@dataclass(frozen=True)
class Round:
    """One parameter set of the rounding unit."""

    in_width: int
    out_width: int
    right: int = 0
    left: int = 0
    mode: int = 0
    signed: int = 1
    narrow: int = 0
    relu: int = 0
    zero: int = 0

    @property
    def scope(self) -> str:
        return "round_" + "_".join(str(getattr(self, field.name)).replace("-", "m") for field in fields(self))

    @property
    def parameters(self) -> dict[str, int]:
        names = ("InWidth", "OutWidth", "ShiftRight", "ShiftLeft", "RoundMode", "OutSigned", "Narrow", "Relu", "Zero")
        return dict(zip(names, (getattr(self, field.name) for field in fields(self)), strict=True))

    def rounded(self, t: int) -> int:
        """Return the same in software."""
        high = (1 << self.out_width - self.signed) - 1
        low = 0 if not self.signed else -high if self.narrow else -high - 1
        bounds = 0 if self.relu else low - self.zero, high - self.zero
        return self.zero + Rounding(self.right - self.left, *bounds, MODES[self.mode]).scalar(t)


ROUNDS = (
    *(Round(9, 5, right, mode=mode) for right in (1, 2, 5) for mode in range(3)),
    *(Round(9, 4, 9, mode=mode) for mode in range(3)),  # nothing but the sign is left
    *(Round(8, 3, 10, mode=mode) for mode in range(3)),  # not even that
    Round(9, 12),
    Round(9, 4),
    Round(6, 12, left=3),
    Round(6, 4, left=5, narrow=1),
    Round(9, 5, 3, signed=0),
    Round(9, 5, 3, narrow=1),
    Round(9, 5, 3, relu=1),
    Round(9, 5, 3, signed=0, zero=19),
    Round(9, 5, 3, signed=0, zero=31, relu=1),
    Round(9, 5, 2, zero=-11, mode=1),
    Round(4, 6, left=3, zero=9, relu=1),
    Round(9, 1, 4),
    Round(9, 1, 4, signed=0, mode=1),
    Round(1, 1),
    Round(1, 2, 1),
)


def of(kind: str) -> list[Unit]:
    """Return the units of one module."""
    return [unit for unit in units() if unit.block.sv_module == kind]


def run_operators(kind: str, test_module: str, work: Path, simulator: str) -> None:
    """Run the cocotb tests of a module on a simulation of all units of one block, in the folder ``work``."""
    sources = library_files([kind])
    instances = [Instance(case.scope, kind, case.parameters) for case in ROUNDS if kind == "mase_round"]
    for unit in of(kind):
        parameters: dict[str, int | str] = dict(unit.block.sv_params())
        for key, image in unit.block.memories().items():
            file = f"{unit.scope}_{key}.mem"
            (work / file).write_text(image.text())
            parameters[key] = file
        instances.append(Instance(unit.scope, kind, parameters))
    name = f"{kind}_bench"
    top = work / f"{name}.sv"
    top.write_text(bench(name, instances, sources))
    told = {BLOCK: kind}
    run_block(name, [*sources, top], {}, test_module, cache=cache_dir(), work=work, simulator=simulator, told=told)


# -- what every block must do -----------------------------------------------------------------------------------------


Streams = tuple[list[Stream], list[Stream]]


def streams(dut: HierarchyObject, unit: Unit) -> Streams:
    """Return the streams that enter and those that leave."""
    ins, outs = unit.block.inputs, unit.block.outputs
    return [Stream.of(dut, port, unit.scope) for port in ins], [Stream.of(dut, port, unit.scope) for port in outs]


async def move(unit: Unit, sides: Streams, stalls: tuple[float, float] = (0.0, 0.0)) -> tuple[int, list[list[Beat]]]:
    """Send all samples in and take what comes out; return the cycle of the first beat in, and the beats by output."""
    sending = [
        cocotb.start_soon(send(stream, words, stalls[0], Random(2 * i + 1)))
        for i, (stream, words) in enumerate(zip(sides[0], unit.words(), strict=True))
    ]
    taking = [
        cocotb.start_soon(receive(stream, len(beats), stalls[1], Random(2 * i + 2)))
        for i, (stream, beats) in enumerate(zip(sides[1], unit.expected(), strict=True))
    ]
    found = [await task for task in taking]
    first = min([(await task)[0] for task in sending])
    assert [[(beat.data, beat.last) for beat in beats] for beats in found] == unit.expected()
    return first, found


def ends(found: list[list[Beat]], begin: int) -> list[list[int]]:
    """Return the cycles from ``begin`` to the last beat of each sample, by output."""
    return [[beat.cycle - begin for beat in beats if beat.last] for beats in found]


async def gives_what_the_reference_gives(dut: HierarchyObject, unit: Unit, stalls: tuple[float, float]) -> None:
    await start(dut)
    await move(unit, streams(dut, unit), stalls)


async def takes_the_cycles_of_its_schedule(dut: HierarchyObject, unit: Unit) -> None:
    await start(dut)
    first, found = await move(unit, streams(dut, unit))
    assert ends(found, first) == unit.completions()


async def starts_over_after_a_reset(dut: HierarchyObject, unit: Unit) -> None:
    await start(dut)
    await _starts_over(dut, unit, min(cycles[1] for cycles in unit.completions()) - 1)


async def starts_over_from_within_a_result(dut: HierarchyObject, unit: Unit) -> None:
    """Reset in the cycle in which the first beat of a row leaves whose others are still to be given."""
    (stream,), (completions,) = unit.block.outputs.values(), unit.completions()
    assert stream.row_beats > 1
    await start(dut)
    await move(unit, streams(dut, unit))  # a register without a reset may begin with a 1, which shows here
    await FallingEdge(dut.clk_i)
    await _starts_over(dut, unit, completions[0] - stream.row_beats + 1)


async def _starts_over(dut: HierarchyObject, unit: Unit, cycles: int) -> None:
    """Reset so many cycles after the first beat was offered, and run again."""
    sides = streams(dut, unit)
    tasks = [cocotb.start_soon(send(*pair)) for pair in zip(sides[0], unit.words(), strict=True)]
    takers = [cocotb.start_soon(receive(stream, 10**6)) for stream in sides[1]]
    await ClockCycles(dut.clk_i, cycles)
    for task in (*tasks, *takers):
        task.cancel()
    await FallingEdge(dut.clk_i)
    for stream in (*sides[0], *sides[1]):
        (stream.valid if stream.enters else stream.ready).value = 0
    await reset(dut)
    begin = cycle()
    first, found = await move(unit, sides)
    assert ends(found, first) == unit.completions()
    assert first == begin or found[0][0].cycle <= first  # what needs no input may come first


async def has_no_path_through_the_handshake(dut: HierarchyObject, unit: Unit) -> None:
    await start(dut)
    ins, outs = streams(dut, unit)
    await check_registered(*ins, *outs, cycles=60)
