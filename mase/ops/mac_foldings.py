"""Cycles and contents of the linear unit at any folding (hw/linear, hw/common), without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mase.blocks.block_normalise import Normaliser
from mase.blocks.encode import Encoder
from mase.blocks.product import Product
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, clog2, pairs, tile_lanes, tree


@dataclass(frozen=True)
class LinearFoldings(Foldings):
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
    normaliser: Normaliser | Encoder | None
    mult_shared: bool = False
    zero_bits: int = 0
    taps: int = 1
    sets: int = 1

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
        core = self.rows * self.out_tiles(pe) * self.beats(simd)
        return core if self.normaliser is None else np.maximum(core, self.normaliser.cycles(pe))

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

    def latency(self, simd: Count) -> Count:
        """Return the cycles from the last firing of a tile to its output beat."""
        group, has_exp = self.group(simd), bool(self.x_block or self.w_block)
        acc = 3 + clog2(group) + (self.f_bits > 0) + (self.region_beats(simd) > 1) + has_exp + clog2(simd // group)
        return acc + (self.mult_bits > 0) + (self.guard is not None) + (self.normaliser is None) + 1

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        depth = ceil_div(self.latency(simd), self.beats(simd)) + 2
        if self.normaliser is None:
            return {"": depth}
        return {"": depth, "normalise": self.normaliser.fifo(self.beats(simd))}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        core = self._core(simd, pe, fifos[""])
        if self.normaliser is None:
            return {"": core}
        return {"": core, "normalise": self.normaliser.work(pe, fifos["normalise"])}

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

    def _core(self, simd: Count, pe: Count, fifo: Count) -> Work:
        o, k = self.out_tiles(pe), self.tiles(simd)
        group, has_exp, product = self.group(simd), bool(self.x_block or self.w_block), self.product.result(self.x_bits)
        groups = simd // group
        most = self.acc_width - self.guard if self.guard is not None else np.inf if has_exp else self.acc_width
        part = np.minimum(product + clog2(group) + self.f_bits, most).astype(np.int64)  # bits of the sum of a group
        dot = np.minimum(product + clog2(group), part)  # the same without its factor
        term = self.acc_width if has_exp else part
        lanes = pe * (self.out_width if self.normaliser is None else self.raw_width) - pe * self.zero_bits
        in_bits = simd * self.x_width + self._x_exps(simd) * self.x_exp_bits
        replay = np.greater(o, self.sets) | (self.guard is not None)
        scales = ((pe, self.acc_width, self.mult_bits + 1),) * (self.mult_bits > 0)
        rounders = () if self.normaliser is not None else ((pe, self.raw_width, self.out_width),)
        roms = self.rom_shapes(simd, pe)
        wires = (roms.pop(2),) if self.mult_bits and self.mult_shared else ()
        latency = self.latency(simd)
        exponents = self._exponents(simd, pe, latency) if has_exp else Work()
        factors = self._factors(simd, pe, part)
        products = self.product.work(pe * simd, self.x_bits)
        levels = (*tree(group, product, dot, pe * groups), *tree(groups, term, self.acc_width, pe))
        registers = in_bits + replay + factors.registers + pe * simd * np.minimum(product, dot) + pe * self.acc_width
        registers += sum(nodes * bits for _, nodes, bits in levels)
        registers += pe * (self.acc_width + self.mult_bits) * (self.mult_bits > 0)
        registers += lanes if self.normaliser is None else 0
        return Work(
            multipliers=(*products.multipliers, *factors.multipliers, *scales),
            operand_words=o * k,
            adders=(*products.adders, *((pairs, bits) for pairs, _, bits in levels), *exponents.adders),
            accumulators=((pe, self.acc_width), *exponents.accumulators),
            muxes=(
                (in_bits * replay, 2),
                (lanes * (self.normaliser is not None) * self.zero_bits, 2),
                *exponents.muxes,
                *products.muxes,
            ),
            shifters=(*products.shifters, *exponents.shifters),
            registers=registers + self._control(latency, o, k) + exponents.registers,
            delays=(
                (np.greater(o * self.rows, 1), latency - 1),
                (clog2(o), self._stage_add(latency) - 1),
                *exponents.delays,
                *factors.delays,
            ),
            roms=(*roms, *exponents.roms),
            wires=wires,
            fifos=((lanes + 1, fifo),),
            buffers=((in_bits * replay, k),),
            rounders=rounders,
            counters=(k, o, self.rows, k * o, *exponents.counters, *factors.counters),
        )

    def _x_exps(self, simd: Count) -> Count:
        """Return the exponents of one beat of x."""
        return np.maximum(1, simd // self.x_block) if self.x_block else 0

    def _word_beats(self, simd: Count) -> Count:
        """Return the beats that share a word of weight exponents."""
        return np.maximum(1, self.field_block // simd)

    def _stage_add(self, latency: Count) -> Count:
        """Return the stage at which the accumulator adds."""
        return latency - 2 - (self.mult_bits > 0) - (self.guard is not None) - (self.normaliser is None)

    def _control(self, latency: Count, o: Count, k: Count) -> Count:
        """Return the bits of control: valid, done (the same if a beat is a sum), an open sum, the tile."""
        add = self._stage_add(latency)
        done = latency - 1 - np.where(np.equal(k, 1) & (self.guard is None), add, 0)
        return add + done + 1 + (clog2(o) if self.mult_bits else 0)

    def _factors(self, simd: Count, pe: Count, part: Count) -> Work:
        """Return what factors of blocks add: a product for each group sum."""
        if not self.f_bits:
            return Work()
        group, exps = self.group(simd), np.maximum(1, simd // self.f_block)
        count, k = pe * (simd // group), self.tiles(simd)
        alone = () if self.w_block else (self.rom_shapes(simd, pe)[-1][1], np.minimum(self._word_beats(simd), k))
        return Work(
            multipliers=((count, self.product.result(self.x_bits) + clog2(self.f_block), self.f_bits + 1),),
            registers=count * part,
            delays=((pe * exps * self.f_bits, 1 + clog2(group)),),
            counters=alone,
        )

    def _exponents(self, simd: Count, pe: Count, latency: Count) -> Work:
        """Return what block exponents add: their sums, the shift of each group, and with a guard the scan before it."""
        group, k = self.group(simd), self.tiles(simd)
        groups, wait, bits = simd // group, 1 + clog2(group) + (self.f_bits > 0), max(1, self.exp_max.bit_length())
        count = pe * groups
        words = self.rom_shapes(simd, pe)[-1][1] if self.w_block else 1
        beats = self._word_beats(simd) if self.w_block else 1
        sums = ((count, bits),) if self.x_block and self.w_block else ()
        lines = (count if self.w_block else groups) * bits
        if self.guard is None:
            return Work(
                adders=sums,
                shifters=((count, self.acc_width, self.exp_max),),
                registers=count * self.acc_width,
                delays=((lines, wait),),
                counters=(words, np.minimum(beats, k)),
            )
        region = self.region_beats(simd)
        full = self.product.result(self.x_bits) + self.f_bits + clog2(group * region)
        whole = np.minimum(full, self.acc_width - self.guard)
        term = np.minimum(self.acc_width, whole + self.guard)  # above that all bits are the sign
        several = np.greater(region, 1)
        add = self._stage_add(latency)
        control = 3 + several * (count * whole + 1 + add)
        return Work(
            adders=(*sums, (count + pe, bits), (count, bits)),
            accumulators=((count * several, whole),),
            muxes=((count * bits, 2),),
            shifters=(
                (count, whole + self.guard, self.exp_max),
                (pe, self.acc_width, self.exp_max),
                (pe, self.raw_width, self.exp_max),
            ),
            registers=count * term + pe * (3 * bits + self.raw_width) + control,
            delays=((count * bits, wait + several), (pe * bits, add - 2), (pe * bits, add - 1 + (self.mult_bits > 0))),
            roms=((pe * bits, self.out_tiles(pe)),),
            counters=(words, words, np.minimum(beats, k), region),
        )
