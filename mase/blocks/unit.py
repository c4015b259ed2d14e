"""What units with the shared output side have in common: a pipeline, its FIFO, and what normalises behind it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mase.dataflow.part import NOTHING, Part, credit_fifo, product, registers, shift
from mase.dataflow.work import Count, Foldings, Work

NORMALISE = "normalise"


class Behind(Protocol):
    """What may stand behind a unit that leaves exact integers, before it is folded."""

    def cycles(self, lanes: Count) -> Count:
        """Return the cycles of a sample."""

    def fifo(self, beats: Count) -> Count:
        """Return a FIFO depth that keeps the rate of one output beat in ``beats`` cycles."""

    def part(self, lanes: Count, fifo: Count) -> Part:
        """Return what it is made of at any numbers of lanes."""


def output(
    lanes: Count,
    bits: int,
    out_bits: int,
    stored: Count,
    rounds: bool,
    mult_bits: int = 0,
    zeros: int = 0,
    exp_max: int = 0,
    aligned: bool = False,
) -> Part:
    """Return hw/common/mase_output on integers of ``bits``.

    Args:
        out_bits: of a result. stored: of the results of a beat. rounds: else raw integers leave. zeros: trailing ones
            of a constant multiplier. aligned: each integer is shifted by an exponent of at most ``exp_max``.
    """
    part, total = NOTHING, bits + mult_bits
    if mult_bits:
        part = part >> lanes * product(bits, mult_bits + 1 - zeros, total - zeros)
    if aligned:
        total += exp_max
        part = part >> lanes * shift(total, exp_max)
    if rounds:
        part = part >> Part(Work(rounders=((lanes, total, out_bits),)), latency=0) >> registers(stored)
    return part


class UnitFoldings(Foldings):
    """A unit before it is folded, with the normaliser or encoder behind it where it leaves exact integers."""

    normaliser: Behind | None

    @abstractmethod
    def path(self, simd: Count, pe: Count) -> Part:
        """Return all from a firing to the output FIFO."""

    @abstractmethod
    def beat_bits(self, pe: Count) -> Count:
        """Return the bits of an output beat of the unit."""

    def latency(self, simd: Count, pe: Count) -> Count:
        """Return the cycles from the firing of an output beat to its being offered."""
        return self.path(simd, pe).latency + 1

    def core(self, simd: Count, pe: Count, fifo: Count) -> Part:
        """Return the unit."""
        return self.path(simd, pe) >> credit_fifo(self.beat_bits(pe) + 1, fifo)

    def paced(self, cycles: Count, pe: Count) -> Count:
        """Return the cycles of a sample with what follows the unit, which takes so many by itself."""
        return cycles if self.normaliser is None else np.maximum(cycles, self.normaliser.cycles(pe))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        depth = {"": self.latency(simd, pe) + 2}
        return depth if self.normaliser is None else {**depth, NORMALISE: self.normaliser.fifo(1)}

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        core = {"": self.core(simd, pe, fifos[""]).work}
        return core if self.normaliser is None else {**core, NORMALISE: self.normaliser.part(pe, fifos[NORMALISE]).work}
