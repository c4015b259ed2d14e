"""LUT, FF, DSP and BRAM of a block, from what it is made of: rules of Yosys, and LUTs fitted to what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mase.cost.device import Device
from mase.cost.features import Features, features
from mase.cost.table import Table, load
from mase.dataflow.block import Block
from mase.dataflow.work import Count, Work

ASSUMED = "assumed"
FITTED = "xcup"  # whose table prices the targets without one


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
        """Return LUT-equivalents, the one figure that ranks designs (docs/design.md, "Cost and mapping")."""
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
    """Return where each figure of a device comes from: fitted (with the error), counted by rules, or assumed."""
    table = load(device.name)
    if table is None:
        return dict.fromkeys(("lut", "ff", "dsp", "bram"), ASSUMED)
    errors = table.designs_error
    rule = f"counted by the rules of {table.tool}"
    return {
        "lut": f"fitted to {table.tool}, {table.points} blocks; {table.designs} other designs: {errors['lut']}",
        "ff": f"{rule}; {table.designs} designs: {errors['ff']}",
        "dsp": rule,
        "bram": rule,
    }


def bill(work: Work, device: Device) -> Bill:
    """Price what a block is made of, for one folding or for many at once."""
    found = features(work, device)
    table = load(device.name) or load(FITTED)
    assert table is not None, "the table of the default target is part of the package"
    return Bill(found.lut + fitted_luts(found, table), found.ff, found.dsp, found.bram)


def fitted_luts(found: Features, table: Table) -> Count:
    """Return the LUTs that no rule counts."""
    luts: Count = sum(table.luts[name] * count for name, count in found.fitted.items())
    for columns, words in found.roms:
        luts = luts + columns * np.interp(words, *table.rom)
    if not found.products:
        return luts
    share = np.interp(found.words, *table.shares)
    return luts + share * sum(count * table.product(a, b) for count, a, b in found.products)
