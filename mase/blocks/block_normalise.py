"""Give blocks of exact integers one exponent each and rounded mantissas (hw/block_normalise)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.blocks.banks import BANKS, Gathered, banks, paced
from mase.dataflow.part import Part, credit_fifo, registers
from mase.dataflow.work import Count, Work, ceil_div
from mase.formats import Code
from mase.formats.base import floor_log2, pow2
from mase.formats.grid import Grid, Rise
from mase.formats.whole import whole


def normalise(t: Tensor, unit: int, grid: Grid) -> Code:
    """Return the codes of float64 integers ``[..., n]`` whose 1 is worth 2**unit; blocks along the last axis."""
    count = -(-t.shape[-1] // grid.block)
    blocks = pad(t, (0, count * grid.block - t.shape[-1])).unflatten(-1, (count, grid.block))
    top = blocks.abs().amax(-1)
    exponent = floor_log2(top) + (unit - grid.lift)
    if grid.rise is not None:
        exponent += grid.rise.reached(top)
    exponent = torch.where(top > 0, exponent, grid.base).clamp_(grid.base, grid.base + grid.span)
    scaled = blocks * pow2(unit - grid.unit + grid.base - exponent).unsqueeze(-1)
    return Code(elements(scaled.flatten(-2)[..., : t.shape[-1]], grid), exponent)


def elements(v: Tensor, grid: Grid) -> Tensor:
    """Return the codes nearest to float64 ``v``, in units of the grid's integers; may overwrite ``v``."""
    return whole(v.round_().clamp_(grid.low, grid.high)) if grid.pattern is None else grid.pattern.codes(v)


def normalise_scalar(row: list[int], unit: int, grid: Grid) -> tuple[list[int], list[int]]:
    """Do the same for one row of Python integers, from the definition."""
    mantissas: list[int] = []
    exponents: list[int] = []
    for start in range(0, len(row), grid.block):
        block = row[start : start + grid.block]
        top = max(abs(t) for t in block)
        risen = top > 0 and grid.rise is not None and grid.rise.scalar(top)
        exponent = top.bit_length() - 1 + risen + unit - grid.lift
        exponent = min(max(exponent, grid.base), grid.base + grid.span) if top else grid.base
        down = exponent - grid.base + grid.unit - unit  # bits dropped
        mantissas += [element_scalar(t, down, grid) for t in block]
        exponents.append(exponent)
    return mantissas, exponents


def element_scalar(t: int, down: int, grid: Grid) -> int:
    """Return the code nearest to t / 2**down, from the definition: the oracle of :func:`elements`."""
    if grid.pattern is not None:
        return grid.pattern.scalar(t, down)
    if down <= 0:
        m = t << -down
    else:
        m, rest = divmod(t, 2**down)
        m += 2 * rest > 2**down or (2 * rest == 2**down and m % 2 == 1)
    return min(max(m, grid.low), grid.high)


@dataclass(frozen=True)
class Normaliser:
    """The normaliser before it is folded: parameters of the RTL."""

    rows: int
    cols: int
    in_width: int
    width: int
    block: int
    exp_bits: int
    offset: int
    point: int
    rise: Rise | None
    float_exp: int
    log: bool = False

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""
        return paced(self.rows, self.cols, self.block, lanes)

    @property
    def latency(self) -> int:
        """Cycles from the reading of a beat to its being offered, at any lanes."""
        return _latency(self)

    def fifo(self, beats: Count) -> Count:
        """Return a FIFO depth that keeps the rate of one output beat in ``beats`` cycles."""
        return ceil_div(self.latency, beats) + 2

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any numbers of lanes."""
        exps = np.maximum(1, lanes // self.block)
        return self._path(lanes) >> credit_fifo(lanes * self.width + exps * self.exp_bits + 1, fifo)

    def _path(self, lanes: Count) -> Part:
        exps = np.maximum(1, lanes // self.block)
        rises = self.rise is not None
        above = ((exps * self.in_width, lanes // exps + 1), (lanes * self.in_width, 2)) * rises
        if self.rise is not None and self.rise.ones:
            above += ((lanes * self.in_width, 1 + self.rise.ones),)
        tops = Part(  # the greatest of a block, and with it the exponent
            Work(
                adders=((lanes, self.in_width), *((lanes, self.in_width),) * rises),
                gates=(
                    (exps * self.exp_bits, self.in_width),
                    (exps * self.in_width, lanes // exps + 1),
                    (lanes * self.in_width, 2),
                    *above,
                ),
                registers=exps * (self.in_width * (1 + rises) + 3 * self.exp_bits),
                banks=((exps * self.in_width, BANKS),) * (1 + rises),
            )
        )
        kept = banks(self.rows, self.cols, self.block, lanes, lanes * self.in_width)
        return kept & (tops >> registers(0) >> self._rounded(lanes)).along(1)

    def _rounded(self, lanes: Count) -> Part:
        """Return what shifts and rounds the elements."""
        if self.float_exp:
            return element_round(lanes, self.in_width, self.float_exp, self.width - 1 - self.float_exp, self.log)
        wide = max(self.in_width + max(0, self.offset + self.point) + 1, self.width + 2)
        most = (1 << self.exp_bits) - 1
        shifted = Part(Work(shifters=((1, wide, most), (1, self.in_width + 1, most)), registers=wide + 1), latency=1)
        part: Part = lanes * (shifted >> Part(Work(adders=((1, wide),), registers=self.width), latency=1))
        return part


def element_round(lanes: Count, in_width: int, exp: int, man: int, log: bool) -> Part:
    """Return what makes an element: hw/common/mase_float_round, or mase_log_round."""
    return log_round(lanes, in_width, exp) if log else float_round(lanes, in_width, exp, man)


def log_round(lanes: Count, in_width: int, exp: int) -> Part:
    """Return hw/common/mase_log_round, ``lanes`` of it: magnitude and place, comparison, saturation."""
    lead = max(1, (in_width - 1).bit_length())
    power = max(lead, exp) + 3
    placed = Part(Work(adders=((1, in_width),), gates=((lead, in_width),), registers=in_width + lead + 2), latency=1)
    compared = Part(
        Work(adders=((1, power),), gates=((1, in_width),), shifters=((1, in_width, in_width),), registers=power + 2),
        latency=1,
    )
    held = Part(Work(gates=((exp, power),), registers=exp + 1), latency=1)
    part: Part = lanes * (placed >> compared >> held)
    return part


def float_round(lanes: Count, in_width: int, exp: int, man: int) -> Part:
    """Return hw/common/mase_float_round, ``lanes`` of it: magnitude and place, shifted bits, code."""
    wide, drop = in_width + man + 1, (in_width + man + 1).bit_length() + 2
    placed = Part(
        Work(adders=((1, in_width), (1, drop)), gates=((drop, in_width),), registers=in_width + 1 + 2 * drop), latency=1
    )
    shifted = Part(
        Work(adders=((1, drop),), shifters=((1, wide, wide), (1, wide, wide)), registers=man + 2 + exp + 3), latency=1
    )
    coded = Part(Work(adders=((1, exp + man + 3),), registers=exp + man + 1), latency=1)
    part: Part = lanes * (placed >> shifted >> coded)
    return part


@lru_cache(maxsize=4096)
def _latency(normaliser: Normaliser) -> int:
    return int(normaliser._path(1).latency) + 1


@dataclass(frozen=True, eq=False)
class BlockNormalise(Gathered):
    """Normalise a stream of exact integers."""

    sv_module: ClassVar[str] = "mase_block_normalise"

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return (normalise(inputs[0].mantissa.to(torch.float64), self.unit, self.grid),)

    def sv_params(self) -> Mapping[str, int]:
        grid, pattern = self.grid, self.grid.pattern
        point = grid.lift + grid.base - grid.unit
        limit = self.in_width + max(grid.width, point) + 4
        return {
            "Rows": self.rows,
            "Cols": self.cols,
            "Lanes": self.lanes,
            "InWidth": self.in_width,
            "Width": grid.width,
            "Block": grid.block,
            "ExpBits": grid.exp_bits,
            "Most": grid.span,
            "Offset": min(max(self.unit - grid.base - grid.lift, -limit), grid.span + grid.width + 2),
            "Point": point,
            "RiseOnes": -1 if grid.rise is None else grid.rise.ones,
            "RiseMore": int(grid.rise is not None and grid.rise.more),
            "Narrow": int(grid.low == -grid.high),
            "FloatExp": 0 if pattern is None else pattern.exp,
            "FloatTop": 0 if pattern is None else pattern.top,
            "Log": int(pattern is not None and not pattern.subnormal),
            "FifoDepth": self.fifo,
        }

    @property
    def normaliser(self) -> Normaliser:
        """All that its hardware depends on but the lanes."""
        grid, given = self.grid, self.sv_params()
        shape = self.rows, self.cols, self.in_width, grid.width, grid.block, grid.exp_bits
        return Normaliser(*shape, given["Offset"], given["Point"], grid.rise, given["FloatExp"], bool(given["Log"]))
