"""What Yosys makes of a block: exact by its rules where it has some, features of a fit elsewhere.

- Products: from ``dsp_bits`` on DSP blocks, cut as Yosys cuts them (mul2dsp); narrower ones LUTs, by a measured table.
- Memories: :mod:`mase.cost.memory`. Words of a ROM in logic are taken as random where they are not known, so that
  columns that are equal by chance share a flip-flop; real weights may share more.
- Delay lines from three cycles on become shift registers in LUTs (xilinx_srl), 32 cycles each.
- Flip-flops are counted, not fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mase.cost import memory
from mase.cost.device import Device
from mase.dataflow.work import Count, Work, ceil_div, clog2

SHORTEST_LINE, LONGEST_LINE = 3, 32  # cycles of a delay line that one LUT holds
MUX_INPUTS = 3  # that one LUT chooses among, each with its own select
SURE = 16  # address words from which no two columns of random bits are equal


@dataclass(frozen=True)
class Features:
    """What a block becomes.

    Args:
        ff, dsp, bram: counted by the rules. lut: LUTs that hold memories and delay lines, by the rules.
        products: (count, bits a, bits b) of products in LUTs. words: different second operands of these.
        roms: (columns, words) of ROMs in logic. fitted: what the other LUTs depend on, by name.
    """

    ff: Count
    dsp: Count
    bram: Count
    lut: Count
    products: tuple[tuple[Count, int, int], ...]
    words: Count
    roms: tuple[tuple[Count, Count], ...]
    fitted: Mapping[str, Count]


def features(work: Work, device: Device) -> Features:
    """Return what Yosys makes of a block, for one folding or for many at once."""
    states = sum(clog2(n) for n in work.counters)
    hard = [(count, tiles(a, b, device), a, b) for count, a, b in work.multipliers]
    kinds = [*((1, bits, depth) for bits, depth in work.roms), *work.tables]
    roms = [(n, bits, depth, memory.rom(bits, depth)) for n, bits, depth in kinds]
    known = [(n, memory.rom(bits, depth), contents) for n, bits, depth, contents in work.known]
    logic = tuple((n * np.where(blocks > 0, 0, columns(bits, depth)), depth) for n, bits, depth, blocks in roms)
    rams = [(bits, depth, memory.ram(bits, depth)) for bits, depth in work.buffers]
    plain = [memory.lutram(bits, depth) for bits, depth in (*work.fifos, *work.banks)]
    depths = [depth for _, depth in work.fifos]
    long = [(bits, cycles, np.greater_equal(cycles, SHORTEST_LINE)) for bits, cycles in work.delays]
    ff = work.registers + states + sum(2 * (clog2(n) + clog2(n + 1)) for n in depths)
    ff = ff + sum(bits * np.where(line, 0, np.maximum(cycles, 0)) for bits, cycles, line in long)
    ff = ff + sum(column for column, _ in logic) + sum(ram.ff for _, _, ram in rams)
    ff = ff + sum(n * np.where(blocks > 0, 0, contents.columns) for n, blocks, contents in known)
    wide = sum(count * np.maximum(n - 1, 0) * (a + b - device.multiplier[1] + 1) for count, n, a, b in hard)
    return Features(
        ff=ff,
        dsp=sum(count * n for count, n, _, _ in hard),
        bram=sum(n * blocks for n, _, _, blocks in roms)
        + sum(n * blocks for n, blocks, _ in known)
        + sum(ram.bram for _, _, ram in rams),
        lut=sum(plain)
        + sum(n * np.where(blocks > 0, 0, memory.known(contents)) for n, blocks, contents in known)
        + sum(ram.lut for _, _, ram in rams)
        + sum(bits * np.where(line, ceil_div(cycles, LONGEST_LINE), 0) for bits, cycles, line in long),
        products=tuple((count, a, b) for count, n, a, b in hard if not n),
        words=work.operand_words,
        roms=logic,
        fitted={
            "block": max(1, len(depths)),  # each FIFO has a control of its own
            "state": states + sum(clog2(n + 1) for n in depths),
            "adder": sum(n * (bits - 1) for n, bits in work.adders) + wide,
            "accumulator": sum(n * bits for n, bits in work.accumulators),
            "mux": sum(bits * ceil_div(inputs - 1, MUX_INPUTS - 1) for bits, inputs in work.muxes),
            "gate": sum(bits * inputs for bits, inputs in work.gates),
            "shifter": sum(n * bits * clog2(shift + 1) for n, bits, shift in work.shifters),
            "rounder_in": sum(n * bits for n, bits, _ in work.rounders),
            "rounder_out": sum(n * bits for n, _, bits in work.rounders),
        },
    )


def tiles(a: int, b: int, device: Device) -> Count:
    """Return the DSP blocks of one signed product: 0 where it becomes LUTs."""
    if a + b < device.dsp_bits or min(a, b) < 2:
        return 0
    step = device.multiplier[1] - 1  # bits that one more block takes off an operand
    return (1 + max(0, -(-(max(a, b) - device.multiplier[0]) // step))) * (
        1 + max(0, -(-(min(a, b) - device.multiplier[1]) // step))
    )


def columns(bits: Count, depth: Count) -> Count:
    """Return how many of ``bits`` columns of ``depth`` random bits are expected to vary, equal ones counted once."""
    if np.all(np.greater_equal(depth, SURE)):
        return bits
    words = 2.0 ** np.minimum(depth, SURE)
    found = (words - 2) * -np.expm1(bits * np.log1p(-1 / words))
    return np.where(np.greater_equal(depth, SURE), bits, found)
