"""The linear unit (hw/linear): sums of products at one folding; its cycles and contents at any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.blocks.product import Product
from mase.blocks.sums import Sums
from mase.blocks.unit import NORMALISE, Behind, UnitFoldings, output
from mase.dataflow.block import MemoryImage, Pipe, pack_words
from mase.dataflow.grid import check_lanes
from mase.dataflow.part import Part, adder_tree, control, delay, last_call, replay, shift
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, Step, stream
from mase.dataflow.stream import StreamType
from mase.dataflow.work import PE, SIMD, Count, Lanes, Work, ceil_div, clog2, pairs, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code


@dataclass(frozen=True)
class LinearFoldings(UnitFoldings):
    """The linear unit before it is folded.

    Args:
        rows, inputs, outputs: sizes.
        x_width, x_bits: of a mantissa of x on the stream, and sign-extended. x_block, x_exp_bits: 0 without exponents.
        product: how it is multiplied by w. w_block, w_exp_bits: as of x. f_block, f_bits: of factors of w.
        out_width, out_block: of the result.
        acc_width, bias_width, mult_bits, raw_width: of accumulator, stored bias, multiplier (0: none), exact result.
        guard: of aligned accumulation, None for exact. exp_max: greatest sum of two exponents.
        normaliser: what follows where the unit leaves raw integers.
        mult_shared: one multiplier for all outputs. zero_bits: of a result that are always 0, the sign behind a ReLU.
        taps: parts of a row, which start with a beat of their own. sets: of outputs, each with inputs of its own.
    """

    rows: int
    inputs: int
    outputs: int
    x_width: int
    x_bits: int
    x_block: int
    x_exp_bits: int
    product: Product
    w_block: int
    w_exp_bits: int
    f_block: int
    f_bits: int
    out_width: int
    out_block: int
    acc_width: int
    bias_width: int
    mult_bits: int
    raw_width: int
    guard: int | None
    exp_max: int
    normaliser: Behind | None
    mult_shared: bool = False
    zero_bits: int = 0
    taps: int = 1
    sets: int = 1

    @classmethod
    def of(cls, sums: Sums) -> Self:
        """Build for sums; their weights do not matter."""
        x, w, out, normaliser = sums.x, sums.w, sums.out, None
        if out.raw:
            normaliser = out.normaliser(sums.rows, sums.outputs, 1, sums.raw_width, 2).normaliser
        return cls(
            sums.rows,
            sums.inputs,
            sums.outputs,
            x.width,
            x.element_bits,
            x.block,
            x.exp_bits,
            sums.product,
            w.block,
            sums.weight_exp_bits,
            0 if sums.packed is None else sums.packed.block,
            0 if sums.packed is None else sums.packed.bits,
            out.grid.width,
            out.grid.block,
            sums.acc_width,
            sums.bias_width,
            out.mult_bits,
            sums.raw_width,
            sums.guard,
            sums.exp_max,
            normaliser,
            out.multiplier is not None and out.multiplier.numel() == 1,
            out.zero_bits,
            sums.taps,
            sums.sets,
        )

    @property
    def field_block(self) -> int:
        """Weights that share an exponent or a factor; 0 without either."""
        return self.w_block or self.f_block

    @property
    def field_bits(self) -> int:
        """Bits of an exponent and a factor."""
        return self.w_exp_bits + self.f_bits

    @property
    def cols(self) -> int:
        """Elements of a part of a row."""
        return self.inputs // self.taps

    @property
    def names(self) -> tuple[str, ...]:
        return SIMD, PE

    def lanes(self) -> tuple[Lanes, Lanes]:
        simd = tile_lanes(self.cols, self.x_block, self.field_block)
        pe = tile_lanes(self.outputs // self.sets, self.out_block)
        if self.sets > 1:  # a beat holds inputs of one set, and outputs of one
            simd, pe = simd[self.cols % simd == 0], pe[self.outputs // self.sets % pe == 0]
        return pairs(simd, pe)

    def tiles(self, simd: Count) -> Count:
        """Return the beats of a row."""
        return self.taps * ceil_div(self.cols, simd)

    def padded(self, simd: Count, pe: Count) -> Count:
        """Tell whether some words hold weights of no element."""
        return np.logical_or(self.cols % simd, self.outputs // self.sets % pe)

    def beats(self, simd: Count) -> Count:
        """Return the cycles of one tile of outputs."""
        return self.tiles(simd) * (1 if self.guard is None else 2)

    def cycles(self, simd: Count, pe: Count) -> Count:
        return self.paced(self.rows * self.out_tiles(pe) * self.beats(simd), pe)

    def out_tiles(self, pe: Count) -> Count:
        """Return the tiles of outputs, of all sets."""
        return self.sets * ceil_div(self.outputs // self.sets, pe)

    def group(self, simd: Count) -> Count:
        """Return the input lanes that share exponents and factors."""
        x, w = (np.minimum(simd, block) if block else simd for block in (self.x_block, self.field_block))
        return np.gcd(x, w)

    def region_beats(self, simd: Count) -> Count:
        """Return the beats that complete a region of constant exponents, in aligned mode."""
        if self.guard is None:
            return 1
        return np.maximum(1, np.gcd(self.x_block, self.w_block) // simd)

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        beats = self.beats(simd)
        depth = {"": ceil_div(self.latency(simd, pe), beats) + 2}
        return depth if self.normaliser is None else {**depth, NORMALISE: self.normaliser.fifo(beats)}

    def rom_shapes(self, simd: Count, pe: Count) -> list[tuple[Count, Count]]:
        """Return (bits, words) of the memories: weights, bias, multipliers, weight exponents."""
        o, k = self.out_tiles(pe), self.tiles(simd)
        shapes = [(pe * simd * self.product.stored(self.padded(simd, pe)), o * k), (pe * self.bias_width, o)]
        if self.mult_bits:
            shapes.append((pe * self.mult_bits, o))
        if self.field_block:
            exps = np.maximum(1, simd // self.field_block)
            words = self.taps * ceil_div(k // self.taps, self._word_beats(simd))
            shapes.append((pe * exps * self.field_bits, o * words))
        return shapes

    def beat_bits(self, pe: Count) -> Count:
        return pe * ((self.out_width if self.normaliser is None else self.raw_width) - self.zero_bits)

    @last_call
    def path(self, simd: Count, pe: Count) -> Part:
        o, k, aligned = self.out_tiles(pe), self.tiles(simd), self.guard is not None
        roms = self.rom_shapes(simd, pe)
        wires = (roms.pop(2),) if self.mult_bits and self.mult_shared else ()
        in_bits = simd * self.x_width + self._x_exps(simd) * self.x_exp_bits
        row = replay(in_bits, k, np.greater(o, self.sets) | aligned) & Part(
            Work(roms=tuple(roms), wires=wires), latency=1
        )
        sums = row >> self._summed(simd, pe)
        stored, rounds = self.beat_bits(pe), not self.normaliser
        path = sums >> output(
            pe,
            self.acc_width,
            self.out_width,
            stored,
            rounds,
            mult_bits=self.mult_bits,
            exp_max=self.exp_max if aligned else 0,
            aligned=aligned,
        )
        if not rounds:
            path = path & Part(Work(muxes=((stored * self.zero_bits, 2),)))
        add, last = sums.latency - 1, path.latency
        done = last - np.where(np.equal(k, 1) & (not aligned), add, 0)
        beside = control(add + done + 1 + (clog2(o) if self.mult_bits else 0), (k, o, self.rows, k * o))
        return beside & delay(np.greater(o * self.rows, 1), last) & delay(clog2(o), add - 1) & path

    def _summed(self, simd: Count, pe: Count) -> Part:
        """Return all from the operands to the accumulators: hw/linear/mase_linear_core."""
        group, has_exp, factors = self.group(simd), bool(self.x_block or self.w_block), self.product.result(self.x_bits)
        groups, words = simd // group, self.out_tiles(pe) * self.tiles(simd)
        most = self.acc_width - self.guard if self.guard is not None else np.inf if has_exp else self.acc_width
        bits = np.minimum(factors + clog2(group) + self.f_bits, most).astype(np.int64)  # of the sum of a group
        dot = np.minimum(factors + clog2(group), bits)  # the same without its factor
        products: Part = simd * self.product.part(self.x_bits, np.minimum(factors, dot), words)
        products = pe * products
        within = products >> adder_tree(group, factors, dot, pe * groups)
        if self.f_bits:
            within = within >> self._factors(simd, pe, bits, within.latency)
        across = adder_tree(groups, self.acc_width if has_exp else bits, self.acc_width, pe)
        if has_exp:
            within = within >> self._exponents(simd, pe, within.latency, across.latency)
        total = Part(Work(accumulators=((pe, self.acc_width),), registers=pe * self.acc_width), latency=1)
        return within >> across >> total

    def _x_exps(self, simd: Count) -> Count:
        """Return the exponents of one beat of x."""
        return np.maximum(1, simd // self.x_block) if self.x_block else 0

    def _word_beats(self, simd: Count) -> Count:
        """Return the beats that share a word of weight exponents."""
        return np.maximum(1, self.field_block // simd)

    def _factors(self, simd: Count, pe: Count, bits: Count, wait: Count) -> Part:
        """Return what factors of blocks add, a product for each group sum; ``wait``: cycles from operands to these."""
        exps, count, k = np.maximum(1, simd // self.f_block), pe * (simd // self.group(simd)), self.tiles(simd)
        alone = () if self.w_block else (self.rom_shapes(simd, pe)[-1][1], np.minimum(self._word_beats(simd), k))
        work = Work(
            multipliers=((count, self.product.result(self.x_bits) + clog2(self.f_block), self.f_bits + 1),),
            registers=count * bits,
            delays=((pe * exps * self.f_bits, wait),),
            counters=alone,
        )
        return Part(work, latency=1)

    def _exponents(self, simd: Count, pe: Count, wait: Count, across: Count) -> Part:
        """Return what block exponents add: their sums, the shift of each group, and with a guard the scan before it.

        Args:
            wait: cycles from operands to sums of groups. across: from shifted sums to their sum.
        """
        group, k = self.group(simd), self.tiles(simd)
        groups, bits = simd // group, max(1, self.exp_max.bit_length())
        count = pe * groups
        words = self.rom_shapes(simd, pe)[-1][1] if self.w_block else 1
        beats = self._word_beats(simd) if self.w_block else 1
        sums = ((count, bits),) if self.x_block and self.w_block else ()
        if self.guard is None:
            lines = (count if self.w_block else groups) * bits
            beside = Part(Work(adders=sums, delays=((lines, wait),), counters=(words, np.minimum(beats, k))))
            shifted: Part = count * shift(self.acc_width, self.exp_max)
            return beside & shifted
        region = self.region_beats(simd)
        full = self.product.result(self.x_bits) + self.f_bits + clog2(group * region)
        whole = np.minimum(full, self.acc_width - self.guard)
        term = np.minimum(self.acc_width, whole + self.guard)  # above that all bits are the sign
        several = np.greater(region, 1)
        add = 2 + wait + several + across  # stage at which the accumulator adds
        control = 3 + several * (count * whole + 1 + add)
        return Part(
            Work(
                adders=(*sums, (count + pe, bits), (count, bits)),
                accumulators=((count * several, whole),),
                muxes=((count * bits, 2),),
                shifters=((count, whole + self.guard, self.exp_max), (pe, self.acc_width, self.exp_max)),
                registers=count * term + pe * 3 * bits + control,
                delays=(
                    (count * bits, wait + several),
                    (pe * bits, add - 2),
                    (pe * bits, add - 1 + (self.mult_bits > 0)),
                ),
                roms=((pe * bits, self.out_tiles(pe)),),
                counters=(words, words, np.minimum(beats, k), region),
            ),
            latency=1 + several,
        )


@dataclass(frozen=True, eq=False)
class LinearBlock(Pipe):
    """Sums of products: ``simd`` inputs times ``pe`` outputs a cycle."""

    sums: Sums
    simd: int
    pe: int
    sv_module: ClassVar[str] = "mase_linear"

    def __post_init__(self) -> None:
        sums = self.sums
        where, part = sums.title, sums.outputs // sums.sets
        for what, value, most in (("simd", self.simd, sums.cols), ("pe", self.pe, part)):
            if value < 1:
                raise UnsupportedOp(f"{where}: {what} is {value}; allowed is 1..{most}")
        fields = replace(sums.w, block=self.foldings.field_block)
        for grid, lanes in ((sums.x, self.simd), (fields, self.simd), (sums.out.grid, self.pe)):
            check_lanes(where, grid, lanes)
        for what, value, whole_of in (("simd", self.simd, sums.cols), ("pe", self.pe, part)):
            if sums.sets > 1 and whole_of % value:
                raise UnsupportedOp(f"{where}: {what} is {value}; allowed are divisors of {whole_of}, those of a group")

    @property
    def stream_in(self) -> StreamType:
        sums = self.sums
        return StreamType(sums.rows * sums.sets * sums.taps, sums.cols, self.simd, replace(sums.x, zero=sums.zero))

    @property
    def stream_out(self) -> StreamType:
        return StreamType(self.sums.rows, self.sums.outputs, self.pe, self.sums.out.raw_grid(self.sums.raw_width))

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.sums.out.given(self.sums.sums(*inputs)),)

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]]:
        return self.sums.sums(*inputs), self.sums.out.describe

    @property
    def in_tiles(self) -> int:
        """Beats of the contraction."""
        return self.sums.taps * -(-self.sums.cols // self.simd)

    @property
    def out_tiles(self) -> int:
        """Tiles of outputs of a set."""
        return -(-(self.sums.outputs // self.sums.sets) // self.pe)

    @property
    def padded(self) -> bool:
        """Tell whether some words hold weights of no element."""
        return bool(self.foldings.padded(self.simd, self.pe))

    @cached_property
    def foldings(self) -> LinearFoldings:
        """All that its hardware depends on but the lanes."""
        return LinearFoldings.of(self.sums)

    def schedule(self) -> Schedule:
        k, o = self.in_tiles, self.out_tiles
        first: tuple[Step | Loop, ...]
        again: tuple[Step | Loop, ...]
        if self.sums.guard is None:
            first = (Loop(k - 1, (stream(take=True),)), stream(take=True, produce=True))
            again = (Loop(k - 1, (Step(),)), stream(produce=True))
        else:  # scan the exponents of the row, then sum from the buffer
            total = Loop(k - 1, (Step(),))
            first = (Loop(k, (stream(take=True),)), total, stream(produce=True))
            again = (Loop(k, (Step(),)), total, stream(produce=True))
        row = (Loop(1, first), Loop(o - 1, again))
        return Schedule((Actor("", (Loop(self.sums.rows * self.sums.sets, row),), {OUT: self.latency}),))

    def sv_params(self) -> Mapping[str, int]:
        sums = self.sums
        return {
            "Rows": sums.rows * sums.sets,
            "Parts": sums.taps,
            "Inputs": sums.cols,
            "Sets": sums.sets,
            "Outputs": sums.outputs // sums.sets,
            "Simd": self.simd,
            "Pe": self.pe,
            "XWidth": sums.x.width,
            "XSigned": int(sums.x.signed),
            "XExpBits": sums.x.exp_bits,
            "XBlock": max(1, sums.x.block),
            **sums.product.sv_params(self.padded),
            "WExpBits": sums.weight_exp_bits,
            "WFactorBits": self.foldings.f_bits,
            "WBlock": max(1, self.foldings.field_block),
            "Aligned": int(sums.guard is not None),
            "Guard": sums.guard or 0,
            "ExpWidth": max(1, sums.exp_max.bit_length()),
            "ExpMax": sums.exp_max,
            "AccWidth": sums.acc_width,
            "BiasWidth": sums.bias_width,
            **sums.out.sv_params(sums.raw_width),
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        sums, o, k = self.sums, self.sums.sets * self.out_tiles, self.in_tiles
        weight, bits, meaning = self._weights()
        tiles = weight.reshape(o, self.pe, k, self.simd).transpose(0, 2, 1, 3).reshape(o * k, -1)
        tiled = {"BiasFile": (sums.bias, sums.bias_width)}
        if sums.out.multiplier is not None:
            tiled["MultFile"] = (sums.out.multiplier.expand(sums.outputs), sums.out.mult_bits)
        if sums.bias_exp is not None:
            tiled["BiasExpFile"] = (sums.bias_exp, max(1, sums.exp_max.bit_length()))
        images = {
            "WeightFile": MemoryImage(
                self.pe * self.simd * bits,
                pack_words(tiles, bits),
                "word o * InTiles + k holds w[o * Pe + p][k * Simd + s] at bit (p * Simd + s) * WWidth" + meaning,
            )
        }
        for name, (values, width) in tiled.items():
            words = np.pad(values.numpy(), (0, o * self.pe - sums.outputs)).reshape(o, self.pe)
            layout = f"word o holds the value of output o * Pe + p at bit p * {width}"
            images[name] = MemoryImage(self.pe * width, pack_words(words, width), layout)
        if self.foldings.field_block:
            images["WeightExpFile"] = self._fields()
        return images

    def _weights(self) -> tuple[npt.NDArray[np.int64], int, str]:
        """Return what is stored of weights ``[tiles * pe, words]``, in how many bits each, and what it means."""
        sums = self.sums
        given = sums.weight if sums.packed is None else sums.packed.elements
        weight = sums.product.words(self._padded(given, sums.cols, self.in_tiles * self.simd), self.padded)
        return weight, int(sums.product.stored(self.padded)), sums.product.layout()

    def _padded(self, x: Tensor, size: int, words: int) -> npt.NDArray[np.int64]:
        """Return ``[tiles * pe, words]`` from ``[outputs, taps * size]``, each part filled up with zeros."""
        taps, more = self.sums.taps, self.sums.sets * self.out_tiles * self.pe - self.sums.outputs
        parts = x.numpy().reshape(-1, taps, size)
        return np.pad(parts, ((0, more), (0, 0), (0, words // taps - size))).reshape(-1, words)

    def _fields(self) -> MemoryImage:
        """Return what blocks of weights have of their own: an exponent, and a factor above it."""
        sums, block, bits = self.sums, self.foldings.field_block, self.foldings.field_bits
        exps = max(1, self.simd // block)
        beats = max(1, block // self.simd)  # of a word
        field, what = torch.zeros((), dtype=torch.int64), "factors"
        if sums.weight_exp is not None:
            field, what = sums.weight_exp - sums.w.base, "exponents"
        if sums.packed is not None and sums.weight_exp is not None:
            what = "exponents, below factors,"
        if sums.packed is not None:
            field = field + (sums.packed.factor << sums.weight_exp_bits)
        words = sums.taps * -(-self.in_tiles // sums.taps // beats)
        table = self._padded(field, field.shape[1] // sums.taps, words * exps)
        tiles = sums.sets * self.out_tiles
        table = table.reshape(tiles, self.pe, words, exps).transpose(0, 2, 1, 3).reshape(tiles * words, -1)
        layout = (
            f"word o * {words} + j holds the {what} of output o * Pe + p from block j * {exps} on, "
            f"at bit p * {exps * bits}"
        )
        return MemoryImage(self.pe * exps * bits, pack_words(table, bits), layout)

    def part(self) -> Part:
        return self.foldings.core(self.simd, self.pe, self.fifo)
