"""What a unit is made of and how many cycles it takes, written once: parts of ``hw/common``, put together.

Latency, contents and firing program of a block read one :class:`Part`. Numbers are one, or arrays with one a folding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy as np

from mase.dataflow.work import Count, Work, clog2, tree

T = TypeVar("T")


class Part:
    """Contents, and the cycles from what enters to what leaves.

    ``a >> b``: b behind a, cycles add. ``a & b``: side by side, the greater number of cycles. ``n * a``: n lanes of a
    under one control.

    Args:
        pieces: whose sum the contents are.
    """

    __slots__ = ("latency", "pieces")
    __array_ufunc__: ClassVar[None] = None  # an array of numbers times a part is a part

    def __init__(self, *pieces: Work, latency: Count = 0) -> None:
        self.pieces, self.latency = pieces, latency

    @property
    def work(self) -> Work:
        """Contents."""
        return Work.of(self.pieces)

    def __rshift__(self, after: Part) -> Part:
        return Part(*self.pieces, *after.pieces, latency=self.latency + after.latency)

    def __and__(self, beside: Part) -> Part:
        cycles = self.latency, beside.latency
        longer = max(cycles) if all(isinstance(n, int) for n in cycles) else np.maximum(*cycles)
        return Part(*self.pieces, *beside.pieces, latency=longer)

    def __rmul__(self, lanes: Count) -> Part:
        return Part(*(lanes * piece for piece in self.pieces), latency=self.latency)

    def along(self, bits: Count = 0) -> Part:
        """Add what goes along in a pipeline: valid, which is reset, and so many bits in lines, such as ``last``."""
        beside = Work(registers=self.latency, delays=((bits, self.latency),) if np.any(bits) else ())
        return Part(*self.pieces, beside, latency=self.latency)


NOTHING = Part()


def when(there: bool, part: Part) -> Part:
    """Return a part where it is there, else nothing."""
    return part if there else NOTHING


def registers(bits: Count) -> Part:
    """Return a stage of registers."""
    return Part(Work(registers=bits), latency=1)


def control(bits: Count = 0, counters: tuple[Count, ...] = ()) -> Part:
    """Return what stands beside a pipeline: flip-flops, and counters of so many states."""
    return Part(Work(registers=bits, counters=counters))


def delay(bits: Count, cycles: Count) -> Part:
    """Return a line beside a pipeline, without reset."""
    return Part(Work(delays=((bits, cycles),)))


def rom(bits: Count, depth: Count) -> Part:
    """Return hw/common/mase_rom."""
    return Part(Work(roms=((bits, depth),)), latency=1)


def credit_fifo(bits: Count, depth: Count) -> Part:
    """Return hw/common/mase_credit_fifo."""
    return Part(Work(fifos=((bits, depth),)), latency=1)


def replay(bits: Count, depth: Count, keep: Count) -> Part:
    """Return hw/common/mase_replay: a register, and where ``keep`` is 1 a buffer that gives a row again."""
    kept = bits * keep
    return Part(Work(registers=bits + keep, muxes=((kept, 2),), buffers=((kept, depth),)), latency=1)


def shift(bits: Count, most: Count) -> Part:
    """Return a shift to the left by up to so many places, into a register."""
    return Part(Work(shifters=((1, bits, most),), registers=bits), latency=1)


def product(a: int, b: int, kept: Count, words: Count | None = None) -> Part:
    """Return a product of which so many bits are kept; ``words``: of the ROM that gives b.

    A factor of two bits with its sign is a shift by a constant, or nothing.
    """
    factors: tuple[tuple[Count, int, int], ...] = ((1, a, b),) if b > 2 or words is not None else ()
    return Part(Work(factors, registers=kept) if words is None else Work(factors, words, registers=kept), latency=1)


def adder_tree(count: Count, width: Count, most: Count, copies: Count) -> Part:
    """Return ``copies`` of hw/common/mase_adder_tree over ``count`` numbers, whose sums have ``most`` bits at most."""
    levels = tree(count, width, most, copies)
    held = sum(nodes * bits for _, nodes, bits in levels)
    return Part(Work(adders=tuple((adders, bits) for adders, _, bits in levels), registers=held), latency=clog2(count))


def last_call(method: Callable[[Any, Count, Count], T]) -> Callable[[Any, Count, Count], T]:
    """Keep the result for the last arguments of a method of an object, so that arrays are worked through once."""
    name = f"_last_{method.__name__}"

    @wraps(method)
    def kept(self: Any, simd: Count, pe: Count) -> T:
        found = self.__dict__.get(name)
        if found is None or found[0] is not simd or found[1] is not pe:
            found = self.__dict__[name] = simd, pe, method(self, simd, pe)
        result: T = found[2]
        return result

    return kept
