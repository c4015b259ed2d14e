"""What the words of a small memory are made of, as logic: pieces that several columns or halves share count once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PIECE = 6  # address bits of what one LUT can hold
SIMPLE = 12  # choices within a piece up to which Yosys makes one LUT of it
RANDOM, LUTS = 14.5, 3.5  # choices within a piece of random words, and what it becomes
Bits = npt.NDArray[np.uint8]


class Contents(NamedTuple):
    """Count what a memory takes as logic.

    Args:
        columns: that vary, equal ones counted once. pieces: LUTs of pieces of 2**PIECE words. choices: between pieces.
    """

    columns: int
    pieces: float
    choices: int

    @classmethod
    def of(cls, words: npt.NDArray[np.int64], bits: int) -> Contents:
        """Count the words of a power of two of addresses, of so many bits each."""
        address = (len(words) - 1).bit_length()
        assert len(words) == 1 << address
        columns = ((words >> np.arange(bits)[:, None]) & 1).astype(np.uint8)
        varying = _distinct(columns[(columns != columns[:, :1]).any(1)])
        size = min(PIECE, address)
        pieces = _functions(varying, size)
        inside = sum(_inside(pieces, level) for level in range(3, size + 1))
        luts = np.maximum(1.0, 1 + (inside - SIMPLE) * (LUTS - 1) / (RANDOM - SIMPLE))
        choices = sum(len(_functions(varying, level)) for level in range(PIECE + 1, address + 1))
        return cls(len(varying), float((luts * np.ones(len(pieces))).sum()), choices)


def _functions(columns: Bits, level: int) -> Bits:
    """Return the different functions of the lowest ``level`` address bits that the highest of these decides.

    A function and its complement are one; what is an address bit alone is a wire.
    """
    rows = columns.reshape(-1, 1 << level)
    half = 1 << level - 1
    rows = rows[(rows[:, :half] != rows[:, half:]).any(1)]
    rows = _distinct(rows ^ rows[:, :1])
    found: Bits = rows[(rows != np.repeat([0, 1], half)).any(1)]
    return found


def _inside(pieces: Bits, level: int) -> npt.NDArray[np.int64]:
    """Return for each piece how many different functions of ``level`` address bits it is put together from."""
    parts = pieces.reshape(len(pieces), pieces.shape[1] >> level, 1 << level)
    half = 1 << level - 1
    decided = (parts[:, :, :half] != parts[:, :, half:]).any(2)
    numbers = (parts ^ parts[:, :, :1]).astype(np.uint64) @ (np.uint64(1) << np.arange(1 << level, dtype=np.uint64))
    ordered = np.sort(np.where(decided, numbers, 0), axis=1)
    first = np.concatenate((np.zeros_like(ordered[:, :1]), ordered[:, :-1]), 1)
    found: npt.NDArray[np.int64] = (ordered != first).sum(1)
    return found


def _distinct(rows: Bits) -> Bits:
    if not len(rows):
        return rows
    _, first = np.unique(np.packbits(rows, axis=1), axis=0, return_index=True)
    return rows[first]
