"""Cycles and contents of the linear unit at any folding (hw/linear, hw/common), without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mase.ops.block_normalise import Normaliser
from mase.ops.work import Count, Foldings, Lanes, Work, ceil_div, clog2, pairs, tile_lanes, tree


@dataclass(frozen=True)
class LinearFoldings(Foldings):
    """The linear unit before it is folded.

    Args:
        rows, inputs, outputs: sizes.
        x_width, x_bits: of a mantissa of x on the stream, and sign-extended. x_block, x_exp_bits: 0 without exponents.
        w_width, w_block, w_exp_bits: the same of w. out_width, out_block: of the result.
        acc_width, bias_width, mult_bits, raw_width: of accumulator, stored bias, multiplier (0: none), exact result.
        guard: of aligned accumulation, None for exact. exp_max: greatest sum of two exponents.
        normaliser: what follows where the result has blocks.
    """

    rows: int
    inputs: int
    outputs: int
    x_width: int
    x_bits: int
    x_block: int
    x_exp_bits: int
    w_width: int
    w_block: int
    w_exp_bits: int
    out_width: int
    out_block: int
    acc_width: int
    bias_width: int
    mult_bits: int
    raw_width: int
    guard: int | None
    exp_max: int
    normaliser: Normaliser | None

    def lanes(self) -> tuple[Lanes, Lanes]:
        return pairs(tile_lanes(self.inputs, self.x_block, self.w_block), tile_lanes(self.outputs, self.out_block))

    def beats(self, simd: Count) -> Count:
        """Return the cycles of one tile of outputs."""
        return ceil_div(self.inputs, simd) * (1 if self.guard is None else 2)

    def cycles(self, simd: Count, pe: Count) -> Count:
        core = self.rows * ceil_div(self.outputs, pe) * self.beats(simd)
        return core if self.normaliser is None else np.maximum(core, self.normaliser.cycles(pe))

    def group(self, simd: Count) -> Count:
        """Return the input lanes that share both exponents."""
        x, w = (np.minimum(simd, block) if block else simd for block in (self.x_block, self.w_block))
        return np.gcd(x, w)

    def region_beats(self, simd: Count) -> Count:
        """Return the beats that complete a region of constant exponents, in aligned mode."""
        if self.guard is None:
            return 1
        return np.maximum(1, np.gcd(self.x_block, self.w_block) // simd)

    def latency(self, simd: Count) -> Count:
        """Return the cycles from the last firing of a tile to its output beat."""
        group, has_exp = self.group(simd), bool(self.x_block or self.w_block)
        acc = 3 + clog2(group) + (self.region_beats(simd) > 1) + has_exp + clog2(simd // group)
        return acc + (self.mult_bits > 0) + (self.guard is not None) + (not self.out_block) + 1

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
        o, k = ceil_div(self.outputs, pe), ceil_div(self.inputs, simd)
        shapes = [(pe * simd * self.w_width, o * k), (pe * self.bias_width, o)]
        if self.mult_bits:
            shapes.append((pe * self.mult_bits, o))
        if self.w_block:
            exps = np.maximum(1, simd // self.w_block)
            shapes.append((pe * exps * self.w_exp_bits, o * ceil_div(k, np.maximum(1, self.w_block // simd))))
        return shapes

    def _core(self, simd: Count, pe: Count, fifo: Count) -> Work:
        o, k, group = ceil_div(self.outputs, pe), ceil_div(self.inputs, simd), self.group(simd)
        groups, has_exp = simd // group, bool(self.x_block or self.w_block)
        a, b = self.x_bits, self.w_width
        sum_width = a + b + clog2(group)
        term = self.acc_width if has_exp else np.minimum(sum_width, self.acc_width)
        adders = tree(group, a + b, sum_width, pe * groups) + tree(groups, term, self.acc_width, pe)
        mults: tuple[tuple[Count, Count, Count], ...] = ((pe * simd, a, b),)
        if self.mult_bits:
            mults += ((pe, self.acc_width, self.mult_bits + 1),)
        shifters: tuple[tuple[Count, Count, Count], ...] = ()
        if has_exp:
            width = self.acc_width if self.guard is None else sum_width + self.guard
            shifters += ((pe * groups, width, self.exp_max),)
            if self.guard is not None:
                shifters += ((pe, self.raw_width, self.exp_max),)
        registers: Count = simd * self.x_width + sum(n * w for n, w in adders) + pe * simd * (a + b)
        registers += pe * (self.acc_width + (self.raw_width if self.mult_bits else 0)) + self.latency(simd) * 4
        registers += pe * groups * term if has_exp else 0
        rounders = () if self.out_block else ((pe, self.raw_width, self.out_width),)
        registers += sum(n * w for n, _, w in rounders)
        replay = np.greater(o, 1) | (self.guard is not None)
        exponents = np.maximum(1, simd // self.x_block) * self.x_exp_bits if self.x_block else 0
        out_bits = pe * (self.raw_width if self.out_block else self.out_width)
        return Work(
            multipliers=mults,
            adders=(*adders, (pe, self.acc_width)),
            shifters=shifters,
            registers=registers,
            roms=tuple(self.rom_shapes(simd, pe)),
            fifos=((out_bits + 1, fifo),),
            buffers=(((simd * self.x_width + exponents) * replay, k),),
            rounders=rounders,
            counters=(k, o, self.rows, k * o),
        )
