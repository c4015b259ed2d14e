"""What RTL blocks are made of, for one folding or for many at once: counts, nothing is estimated here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mase.dataflow.contents import Contents
from mase.errors import UnsupportedOp

Lanes = npt.NDArray[np.int64]
Count = Any  # int, or Lanes: one number a folding; numpy's types do not carry such a union through arithmetic


MANY = 1 << 20  # words, where an operand may be anything
Fold = Mapping[str, int]  # how far a node is folded out, by name
SIMD, PE, LANES = "simd", "pe", "lanes"  # inputs a cycle, outputs a cycle, and both where they are one number


@dataclass(frozen=True)
class Work:
    """Count what an RTL block is made of; every number is one, or an array with one for each folding.

    Args:
        multipliers: (count, bits a, bits b) of each kind of product. operand_words: words of the ROM that gives b.
        adders: (count, bits). accumulators: adders of (count, bits) that add to their own register or to a start.
        muxes: (bits, inputs) of choices. gates: (bits, inputs) of wide ands, ors and encoders.
        shifters: (count, bits, greatest shift). rounders: (count, bits in, bits out). counters: numbers of states.
        registers: bits that no other entry has. delays: (bits, cycles) of lines without reset or taps.
        roms: (bits, depth), a register behind each. tables: ROMs of (count, bits, depth), each with an address of its
            own. known: the same with what their words are. wires: ROMs of (bits, depth) with equal words: no memory.
        fifos: (bits, depth). buffers: RAM of (bits, depth) with one address, read into a register.
        banks: RAM of (bits, depth) with two addresses, read without one.
    """

    multipliers: tuple[tuple[Count, int, int], ...] = ()
    operand_words: Count = MANY
    adders: tuple[tuple[Count, Count], ...] = ()
    accumulators: tuple[tuple[Count, Count], ...] = ()
    muxes: tuple[tuple[Count, Count], ...] = ()
    gates: tuple[tuple[Count, Count], ...] = ()
    shifters: tuple[tuple[Count, Count, Count], ...] = ()
    registers: Count = 0
    delays: tuple[tuple[Count, Count], ...] = ()
    roms: tuple[tuple[Count, Count], ...] = ()
    tables: tuple[tuple[Count, Count, Count], ...] = ()
    known: tuple[tuple[Count, int, int, Contents], ...] = ()
    wires: tuple[tuple[Count, Count], ...] = ()
    fifos: tuple[tuple[Count, Count], ...] = ()
    buffers: tuple[tuple[Count, Count], ...] = ()
    banks: tuple[tuple[Count, Count], ...] = ()
    rounders: tuple[tuple[Count, Count, Count], ...] = ()
    counters: tuple[Count, ...] = ()
    __array_ufunc__: ClassVar[None] = None  # an array of numbers times this is one of these

    @classmethod
    def of(cls, pieces: Sequence[Work]) -> Self:
        """Return all together; operands that several ROMs give are as few as the fewest."""
        lists: dict[str, tuple[Any, ...]] = {}
        registers, words = 0, MANY
        for piece in pieces:
            for name, value in piece.__dict__.items():
                if name == "registers":
                    registers = registers + value
                elif name == "operand_words":
                    if value is not MANY:
                        words = value if words is MANY else np.minimum(words, value)
                elif value:
                    lists[name] = lists[name] + value if name in lists else value
        return cls(**lists, registers=registers, operand_words=words)

    def __rmul__(self, lanes: Count) -> Work:
        """Return so many lanes under one control: counters and operands are there once."""
        once = {"operand_words": self.operand_words, "counters": self.counters, "registers": lanes * self.registers}
        lists = {name: entries for name, entries in self.__dict__.items() if name not in once and entries}
        many = {name: tuple((lanes * n, *rest) for n, *rest in entries) for name, entries in lists.items()}
        return Work(**many, **once)


class Foldings(ABC):
    """Everything that cycles and hardware of an operator depend on, and nothing else: hashable, no weights.

    Arrays of input lanes and output lanes name foldings, element by element. A node's record, files, reports and
    people call them by ``names``: a number of inputs and one of outputs, or one number of lanes.
    """

    follows: ClassVar[bool] = False  # its lanes are those of its neighbours, so nothing is chosen

    def absent(self, simd: Count, pe: Count) -> Count:
        """Tell for which foldings there is nothing to build."""
        return np.zeros(np.shape(simd), bool)

    @property
    def names(self) -> tuple[str, ...]:
        """What a folding consists of: of input and output lanes, or of both as one."""
        return (LANES,)

    def fold(self, simd: int, pe: int) -> Fold:
        """Return a folding by name."""
        return {LANES: simd} if self.names == (LANES,) else {SIMD: simd, PE: pe}

    def sides(self, fold: Fold) -> tuple[int, int]:
        """Return input and output lanes of a folding by name; ``simd`` and ``pe`` say them of every operator.

        Raises:
            UnsupportedOp: there is no folding of a name; says which there are.
        """
        allowed = tuple(dict.fromkeys((*self.names, SIMD, PE)))
        for name, value in fold.items():
            if name not in allowed:
                raise UnsupportedOp(f"{name} is not a folding of it; allowed are {', '.join(allowed)}")
            if value < 1:
                raise UnsupportedOp(f"{name} is {value}; allowed are 1 and more")
        if LANES not in fold:
            return fold.get(SIMD, 1), fold.get(PE, 1)
        if len(fold) > 1:
            raise UnsupportedOp(f"allowed are {LANES} alone, or {SIMD} and {PE}")
        return fold[LANES], fold[LANES]

    @abstractmethod
    def lanes(self) -> tuple[Lanes, Lanes]:
        """Return input and output lanes of every legal folding that differs from the others in cycles."""

    @abstractmethod
    def cycles(self, simd: Count, pe: Count) -> Count:
        """Return the closed form of the interval: cycles a sample."""

    @abstractmethod
    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        """Return, by role, FIFO depths that keep a block at full rate beside a consumer as fast as itself.

        The search prices these: real depths come from the recurrence, which needs the whole netlist.
        """

    @abstractmethod
    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        """Return what the blocks are made of, by role."""


def named(fold: Fold) -> str:
    """Return a folding as text for people, such as ``simd 8, pe 4``."""
    return ", ".join(f"{name} {value}" for name, value in fold.items())


def clog2(n: Count) -> Count:
    """Return the bits that count to n - 1: ceil(log2(n)), 0 for n = 1."""
    if isinstance(n, int):
        return (n - 1).bit_length()
    return np.frexp(n - 1.0)[1]


def constant_product(count: Count, bits: int, constant: int) -> tuple[tuple[Count, int, int], ...]:
    """Return the products with a constant: none of a power of two, which only moves bits."""
    return () if constant & constant - 1 == 0 else ((count, bits, constant.bit_length()),)


def comparison(bits: Count) -> Count:
    """Return the bits of an adder that costs as much as a comparison: Yosys puts three bits of one into two LUTs."""
    return 2 * ceil_div(bits, 3) + 1


def ceil_div(a: Count, b: Count) -> Count:
    """Return a / b rounded up."""
    return -(-a // b)


def tree(count: Count, width: Count, most: Count, copies: Count) -> tuple[tuple[Count, Count, Count], ...]:
    """Return (adders, registers, bits) of each level of ``copies`` pipelined adder trees over ``count`` numbers.

    An odd number of a level passes through a register.
    """
    levels = int(clog2(int(np.max(count, initial=1))))
    if not levels:
        return ()
    level = np.arange(1, levels + 1).reshape(-1, *[1] * np.ndim(count))
    below = -(-count >> level - 1)  # numbers that enter a level
    nodes = copies * (below - below // 2) * (below > 1)
    return tuple(zip(copies * (below // 2), nodes, np.minimum(width + level, most), strict=True))


@lru_cache(maxsize=4096)
def tile_lanes(size: int, *blocks: int) -> Lanes:
    """Return the least legal lanes for every number of tiles that ``size`` elements can be cut into, ascending.

    Args:
        blocks: block sizes, 0 for none; lanes divide each or are multiples of it (docs/arithmetic.md, 7).

    Raises:
        UnsupportedOp: no lanes fit all blocks.
    """
    blocks = tuple(block for block in blocks if block)
    most = -(-size // max(blocks)) * max(blocks) if blocks else size
    lanes = np.arange(1, most + 1)
    for block in blocks:
        lanes = lanes[(lanes % block == 0) | (block % lanes == 0)]
    if not lanes.size:
        raise UnsupportedOp(f"no number of lanes fits blocks of {' and '.join(map(str, blocks))}")
    lanes = lanes[np.unique(-(-size // lanes), return_index=True)[1]][::-1].copy()
    lanes.flags.writeable = False  # every caller gets this one
    return lanes


def pairs(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """Return every combination of the two, flattened."""
    return np.repeat(a, b.size), np.tile(b, a.size)
