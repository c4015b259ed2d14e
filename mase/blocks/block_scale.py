"""Give blocks of exact integers the code of a scale, and elements codes under it (hw/block_scale)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.blocks.banks import Gathered, banks, paced
from mase.dataflow.block import MemoryImage
from mase.dataflow.part import Part, credit_fifo, delay
from mase.dataflow.work import Count, Work, ceil_div, clog2, comparison
from mase.formats import Code
from mase.formats.block_scales import BlockScales, Bound
from mase.formats.grid import Grid

NEAR = 8  # bounds of the greatest of a block within one octave: a scale of four digits has as many codes there
FARTHEST = 900  # bits of a bound that nothing reaches


class Range(NamedTuple):
    """The bits of a magnitude that bounds tell apart: ``keep`` from bit ``drop`` on, and one for all below these."""

    drop: int
    keep: int

    @property
    def bits(self) -> int:
        """Bits of what is kept."""
        return self.keep + (self.drop > 0)

    def cut(self, bound: int) -> int:
        """Return a bound on what is kept, for one on magnitudes; where none reaches it, on what nothing has."""
        if bound >> self.drop + self.keep:
            return 1 << self.bits
        high, low = divmod(bound, 1 << self.drop)
        return 2 * high + (low > 0) if self.drop else high


@dataclass(frozen=True, eq=False)
class Bounds:
    """The least integers with each code of a scale and of an element; their 1 is worth ``step``.

    Args:
        scales: for each code of a scale above the least, on the greatest magnitude of a block.
        elements: for each code of a scale from the least on, on a magnitude for each number above 0.
    """

    of_codes: BlockScales
    step: Fraction
    scales: tuple[int, ...]
    elements: tuple[tuple[int, ...], ...]

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, scales: BlockScales, step: Fraction) -> Self:
        """Return those of integers whose 1 is worth so much."""
        elements = tuple(tuple(_least(bound, step) for bound in row) for row in scales.elements)
        return cls(scales, step, tuple(_least(bound, step) for bound in scales.scales), elements)

    def apply(self, t: Tensor, grid: Grid) -> Code:
        """Return the codes of float64 integers ``[..., n]``; blocks along the last axis."""
        count = -(-t.shape[-1] // grid.block)
        blocks = pad(t, (0, count * grid.block - t.shape[-1])).unflatten(-1, (count, grid.block))
        sizes = blocks.abs()
        found = torch.bucketize(sizes.amax(-1), self._edges[0], right=True)
        rows = self._edges[1][found]
        number = torch.zeros_like(sizes, dtype=torch.int64)
        for bound in rows.unbind(-1):
            number += sizes >= bound.unsqueeze(-1)
        sign = 1 << self.of_codes.element.width - 1
        codes = number + sign * ((blocks < 0) & (number > 0))
        return Code(codes.flatten(-2)[..., : t.shape[-1]], found + self.of_codes.least)

    def scalar(self, row: Sequence[int], block: int) -> tuple[list[int], list[int]]:
        """Return codes of elements and of scales of one row, from the definition: the oracle of :meth:`apply`."""
        codes, scales = list[int](), list[int]()
        for start in range(0, len(row), block):
            found, scale = self.of_codes.scalar([t * self.step for t in row[start : start + block]])
            codes += found
            scales.append(scale)
        return codes, scales

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        """Bounds as the least float64 that are not below them."""
        return _above(self.scales), torch.stack([_above(row) for row in self.elements])

    def range(self, in_width: int) -> Range:
        """Return which bits of the magnitudes of so many bits decide."""
        most = 1 << in_width - 1  # greatest magnitude
        reached = [bound for bound in {*self.scales, *(b for row in self.elements for b in row)} if bound <= most]
        top = max(reached, default=1).bit_length()
        drop = 0
        while drop + 2 < top and all(bound % (2 << drop) <= 1 for bound in reached):
            drop += 1
        drop = drop if drop > 1 else 0  # one bit for all below takes the place of one
        return Range(drop, min(top, in_width) - drop)

    def near(self, kept: Range) -> list[tuple[int, list[int]]]:
        """Return for each place of a leading bit how many bounds of scales all numbers have reached, and the others."""
        cut = [kept.cut(bound) for bound in self.scales]
        out = [(0, list[int]())]
        for place in range(kept.bits):
            begin, end = 1 << place, 2 << place
            out.append((sum(bound <= begin for bound in cut), [bound for bound in cut if begin < bound < end]))
        return out


def _least(bound: Bound, step: Fraction) -> int:
    """Return the least integer within a bound."""
    exact = bound.value / step
    found = -(-exact.numerator // exact.denominator)
    return min(found + (found == exact and not bound.reached), 1 << FARTHEST)


def _above(bounds: Sequence[int]) -> Tensor:
    near = [(float(bound), bound) for bound in bounds]
    above = [x if int(x) >= bound else float(np.nextafter(x, np.inf)) for x, bound in near]
    return torch.tensor(above, dtype=torch.float64)


@dataclass(frozen=True)
class Scaler:
    """The block before it is folded; the same questions as to a Normaliser."""

    rows: int
    cols: int
    block: int
    in_width: int
    kept: int
    dropped: int
    steps: int
    scales: int
    element_bits: int
    scale_bits: int

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""
        return paced(self.rows, self.cols, self.block, lanes)

    @property
    def latency(self) -> int:
        """Cycles from the reading of a beat to its being offered, at any lanes."""
        return 5 + int(clog2(self.block))

    def fifo(self, beats: Count) -> Count:
        """Return a FIFO depth that keeps the rate of one output beat in ``beats`` cycles."""
        return ceil_div(self.latency, beats) + 2

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any numbers of lanes."""
        exps = np.maximum(1, lanes // self.block)
        out = credit_fifo(lanes * self.element_bits + exps * self.scale_bits + 1, fifo)
        return self._path(lanes) >> out

    def _path(self, lanes: Count) -> Part:
        exps, bits, halvings = np.maximum(1, lanes // self.block), self.kept, int(clog2(self.block))
        group, code = lanes // exps, int(clog2(self.scales))
        sizes = Work(
            adders=((lanes, self.in_width),),
            gates=((lanes, self.in_width - bits), (lanes, self.dropped)),
            muxes=((lanes * bits, 2),) * (self.in_width > bits),
        )
        greatest = Work(  # a tree, then one comparison with the beats before
            adders=((exps * group, comparison(bits)),),
            muxes=((exps * group * bits, 2),),
            registers=exps * group * bits + halvings,
            banks=((exps * bits, 2),),
            delays=((3, halvings), (1, halvings), (exps * bits, halvings - clog2(group))),
        )
        scale = Work(
            gates=((exps * clog2(bits + 1), bits),),
            tables=((exps, NEAR * bits + code, bits + 1), (exps, self.steps * bits, self.scales)),
            adders=((exps * NEAR, comparison(bits)), (exps * NEAR, code), (exps, self.scale_bits)),
            registers=exps * (bits + code + self.scale_bits),
        )
        element = Work(
            adders=((lanes * self.steps, comparison(bits)), (lanes * (self.steps - 1), 2)),
            registers=lanes * self.element_bits,
        )
        lines = delay(lanes * (bits + 1), halvings + 2) & delay(exps * self.scale_bits, 2) & delay(1, halvings + 1)
        kept = banks(self.rows, self.cols, self.block, lanes, lanes * (bits + 1))
        inside = Part(sizes, greatest, scale, element, latency=self.latency - 1).along(1)
        return kept & lines & inside


@dataclass(frozen=True, eq=False)
class BlockScale(Gathered):
    """Give a stream of exact integers the codes of elements and, in place of exponents, of scales.

    Args:
        bounds: of the codes.
    """

    bounds: Bounds
    sv_module: ClassVar[str] = "mase_block_scale"

    @cached_property
    def kept(self) -> Range:
        """Bits of a magnitude that decide."""
        return self.bounds.range(self.in_width)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (self.bounds.apply(inputs[0].mantissa.to(torch.float64), self.grid),)

    def sv_params(self) -> Mapping[str, int]:
        codes = self.bounds.of_codes
        return {
            "Rows": self.rows,
            "Cols": self.cols,
            "Lanes": self.lanes,
            "InWidth": self.in_width,
            "Block": self.grid.block,
            "Drop": self.kept.drop,
            "Keep": self.kept.keep,
            "Steps": codes.element.top,
            "Near": NEAR,
            "Scales": len(self.bounds.elements),
            "First": codes.least,
            "ScaleBits": self.grid.exp_bits,
            "FifoDepth": self.fifo,
        }

    def memories(self) -> Mapping[str, MemoryImage]:
        bits, code = self.kept.bits, max(1, int(clog2(len(self.bounds.elements))))
        ranks, elements = list[int](), list[int]()
        for reached, near in self.bounds.near(self.kept):
            ranks.append(reached << NEAR * bits | _word(near, NEAR, bits))
        for row in self.bounds.elements:
            elements.append(_word([self.kept.cut(bound) for bound in row], len(row), bits))
        below = f"numbers below bounds, {bits} bits each, the least lowest"
        lead = "word a, 0 or 1 + place of the leading bit"
        return {
            "ScaleFile": MemoryImage(NEAR * bits + code, ranks, f"{lead}: {below}; over them how many all reach"),
            "ElementFile": MemoryImage(len(self.bounds.elements[0]) * bits, elements, f"word s: {below}"),
        }

    @property
    def normaliser(self) -> Scaler:
        """All that its hardware depends on but the lanes."""
        codes, kept = self.bounds.of_codes, self.kept
        shape = self.rows, self.cols, self.grid.block, self.in_width, kept.bits, kept.drop
        return Scaler(*shape, codes.element.top, len(self.bounds.elements), codes.element.width, self.grid.exp_bits)


def _word(bounds: Sequence[int], count: int, bits: int) -> int:
    """Return a word of so many numbers below bounds; where there is no bound, what is below none."""
    assert len(bounds) <= count
    below = [min(bound, 1 << bits) - 1 for bound in bounds] + [(1 << bits) - 1] * (count - len(bounds))
    return sum(number << i * bits for i, number in enumerate(below))
