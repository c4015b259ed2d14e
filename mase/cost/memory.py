"""Where Yosys puts a memory of an UltraScale+ or 7-series part: block RAM, LUT RAM, or logic (memory_libmap)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mase.dataflow.contents import Contents
from mase.dataflow.work import Count, ceil_div

# A block of 18 Kbit costs 129 and one of 36 Kbit 257, and 2 more for the port that reads; a ROM in logic costs 1/64 a
# bit; LUT RAM costs 16 for 16 bits of 32 words or for 8 of 64 behind one address; a bit of a multiplexer between blocks
# costs 1/2. Block RAM is taken where it is cheaper than the other's cost without its fraction.
# Source: techlibs/xilinx/brams_xc4v.txt and lutrams_xcu.txt, passes/memory/memory_libmap.cc of Yosys.
ROM_COST, MUX_COST, LUTRAM_COST, PORT_COST = 1 / 64, 1 / 2, 16, 2
BLOCKS = np.array(
    [(129, 1, width, 16384 // most) for width, most in ((1, 1), (2, 2), (4, 4), (9, 8), (18, 16), (36, 32))]
    + [(257, 2, width, 32768 // most) for width, most in ((1, 1), (2, 2), (4, 4), (9, 8), (18, 16), (36, 32), (72, 64))]
)  # cost, blocks of 18 Kbit, bits, words
LEAST_ROM, LEAST_RAM = 229, 65  # words from which a block can be cheaper
SHALLOW, DEEP = 32, 64  # words of LUT RAM
ONE_ADDRESS = 16, 8  # bits of so many words in LUTS LUTs, behind one address
TWO_ADDRESSES = 14, 7  # likewise
LUTS = 8
CHOICE = 0.7  # LUTs for a choice between two pieces of a memory in logic: one of 6 inputs chooses among four


@dataclass(frozen=True)
class Ram:
    """What a RAM becomes whose output is registered: flip-flops, LUTs, blocks of 18 Kbit."""

    ff: Count
    lut: Count
    bram: Count


def rom(bits: Count, depth: Count) -> Count:
    """Return the blocks of a ROM with a registered output; 0 where it becomes logic."""
    if not np.any(np.greater_equal(depth, LEAST_ROM)):
        return 0
    cost, found = blocks(bits, depth)
    return np.where(cost < bits * depth * ROM_COST // 1, found, 0)


def known(contents: Contents) -> float:
    """Return the LUTs of a ROM in logic whose words are known."""
    return contents.pieces + CHOICE * contents.choices


def ram(bits: Count, depth: Count) -> Ram:
    """Return what a RAM becomes that one address writes and reads into a register; one word is a register."""
    parts = ceil_div(depth, DEEP)
    shallow, one = np.less_equal(depth, SHALLOW), np.less_equal(depth, 1)
    luts = np.where(shallow, LUTS * ceil_div(bits, ONE_ADDRESS[0]), bits * parts)
    if not np.any(np.greater_equal(depth, LEAST_RAM)):
        return Ram(bits * (1 + one), np.where(one, 0, luts), 0)
    cost, found = blocks(bits, depth)
    big = cost < np.where(shallow, 0, LUTRAM_COST * bits * parts // ONE_ADDRESS[1])
    return Ram(bits * np.where(big, 0, 1 + one), np.where(one | big, 0, luts), np.where(big, found, 0))


def lutram(bits: Count, depth: Count) -> Count:
    """Return the LUTs of a RAM with one address to write and one to read without a register."""
    wide, narrow = TWO_ADDRESSES
    shallow = np.less_equal(depth, SHALLOW)
    return LUTS * np.where(shallow, ceil_div(bits, wide), ceil_div(depth, DEEP) * ceil_div(bits, narrow))


def blocks(bits: Count, depth: Count) -> tuple[Count, Count]:
    """Return the cost of block RAM for a memory with one read port, and how many blocks of 18 Kbit it takes."""
    shape = np.shape(bits * depth)
    cost, size, width, words = BLOCKS.T[:, :, None]
    flat_bits, flat_depth = (np.broadcast_to(x, shape).reshape(1, -1) for x in (bits, depth))
    rows = ceil_div(flat_depth, words)
    units = ceil_div(rows * flat_bits, width)
    total = cost * units + MUX_COST * (rows - 1) * flat_bits
    best = (total.argmin(0), np.arange(total.shape[1]))
    return total[best].reshape(shape) + PORT_COST, (size * units)[best].reshape(shape)
