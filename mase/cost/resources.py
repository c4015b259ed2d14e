"""LUT, FF, DSP and BRAM of a block, from what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mase.cost.device import Device
from mase.ops.base import Block
from mase.ops.work import Count, Work, ceil_div, clog2

ASSUMED = "assumed"


@dataclass(frozen=True)
class Resources:
    """Counts on a device; estimates unless a tool gave them. ``bram`` counts blocks of 18 Kbit."""

    lut: float = 0.0
    ff: float = 0.0
    dsp: float = 0.0
    bram: float = 0.0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp, self.bram + other.bram)

    @classmethod
    def of(cls, total: Bill) -> Resources:
        """Return the bill of one folding."""
        return cls(*(float(np.max(figure)) for figure in (total.lut, total.ff, total.dsp, total.bram)))

    def equivalent(self, device: Device) -> float:
        """Return LUT-equivalents, the one figure that ranks designs (DESIGN 10)."""
        return self.lut + device.dsp_weight * self.dsp + device.bram_weight * self.bram


@dataclass(frozen=True)
class Estimate:
    """Resources of one block, and where each figure comes from."""

    resources: Resources
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Bill:
    """Resources of many foldings at once: one number, or one number a folding."""

    lut: Count
    ff: Count
    dsp: Count
    bram: Count


def estimate(block: Block, device: Device) -> Estimate:
    """Predict the resources of one block."""
    return Estimate(Resources.of(bill(block.work(), device)), origins(device))


def origins(device: Device) -> Mapping[str, str]:
    """Return where each figure of a device comes from."""
    return dict.fromkeys(("lut", "ff", "dsp", "bram"), ASSUMED)


def bill(work: Work, device: Device) -> Bill:
    """Price what a block is made of, for one folding or for many at once."""
    lut: Count = 0.0
    ff: Count = work.registers + sum(clog2(n) for n in work.counters)
    dsp: Count = 0
    bram: Count = 0
    for count, a, b in work.multipliers:
        hard = np.greater_equal(a + b, device.dsp_bits) & np.greater(np.minimum(a, b), 1)
        high, low = np.maximum(a, b), np.minimum(a, b)
        dsp = dsp + count * hard * ceil_div(high, device.multiplier[0]) * ceil_div(low, device.multiplier[1])
        lut = lut + count * ~hard * a * b
    for count, bits in work.adders:
        lut = lut + count * bits
    for count, bits, shift in work.shifters:
        lut = lut + count * bits * ceil_div(clog2(shift + 1), 2)
    for count, wide, bits in work.rounders:
        lut = lut + count * (wide + bits)
    for states in work.counters:
        lut = lut + clog2(states)
    for bits, depth in (*work.fifos, *work.buffers):
        lut = lut + ceil_div(bits * 4, 6) * ceil_div(depth, 32)
    for bits, depth in work.roms:
        big = np.greater_equal(bits * depth, 4096)
        bram = bram + big * ceil_div(bits, 36) * ceil_div(depth, 512)
        lut = lut + ~big * bits * ceil_div(depth, 64)
    return Bill(lut, ff, dsp, bram)
