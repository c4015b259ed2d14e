"""Streams between blocks: how a tensor's codes become beats, and beats become codes.

See docs/arithmetic.md, "Streams and beats".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.formats import Code
from mase.formats.grid import Grid

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StreamType:
    """Describe a stream: rows of ``cols`` elements, ``lanes`` a beat; rows never share a beat, tail lanes carry 0.

    A beat is ``lanes * width`` bits, lane 0 lowest, then one exponent (less ``base``) for each block it touches.

    Elements travel in the order in which the tensor holds them, or in another: images travel pixel by pixel, all
    channels of a pixel together. Blocks neither know nor care, so streams of different orders are equal.

    Args:
        axes: sizes that the elements of a sample factor into, as the tensor holds them. order: these axes as they
            travel, the last one fastest; ``rows`` is the product of all but it, and ``cols`` its size. Both are empty
            where elements travel as the tensor holds them.
    """

    rows: int
    cols: int
    lanes: int
    grid: Grid
    axes: tuple[int, ...] = field(default=(), compare=False)
    order: tuple[int, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, shape: Sequence[int], axis: int, lanes: int, grid: Grid) -> Self:
        """Build for a tensor of which one axis travels fastest, and the others in their order.

        Args:
            shape: of a sample. axis: of the sample; negative ones count from the end.
        """
        axes = tuple(shape) or (1,)
        order = (*(i for i in range(len(axes)) if i != axis % len(axes)), axis % len(axes))
        rows, cols = math.prod(axes) // max(1, axes[order[-1]]), axes[order[-1]]
        if order == tuple(range(len(axes))):
            return cls(rows, cols, lanes, grid)
        return cls(rows, cols, lanes, grid, axes, order)

    @property
    def row_beats(self) -> int:
        """Beats of one row."""
        return -(-self.cols // self.lanes)

    @property
    def beats(self) -> int:
        """Beats of one sample."""
        return self.rows * self.row_beats

    @property
    def exponents(self) -> int:
        """Exponents of one beat."""
        return self.grid.exponents_per_beat(self.lanes)

    @property
    def bits(self) -> int:
        """Bits of one beat."""
        return self.lanes * self.grid.width + self.exponents * self.grid.exp_bits

    @property
    def bytes(self) -> int:
        """Bytes of one beat in files and on AXI."""
        return -(-self.bits // 8)

    def pack(self, code: Code) -> Bits:
        """Return ``[samples, beats, bytes]`` from codes whose last axis is ``cols``."""
        mantissa = self._travelling(code.mantissa, self.axes).reshape(-1, self.rows, self.cols).numpy()
        padded = _pad(mantissa, self.row_beats * self.lanes)
        parts = [_to_bits(padded.reshape(-1, self.beats, self.lanes), self.grid.width)]
        if self.grid.block:
            assert code.exponent is not None
            blocks = -(-self.cols // self.grid.block)
            exponent = self._travelling(code.exponent, self._block_axes()).reshape(-1, self.rows, blocks).numpy()
            exponent = exponent - self.grid.base
            index = self._block_of_beat()
            spread = _pad(exponent, int(index.max()) + 1)[..., index]
            parts.append(_to_bits(spread.reshape(-1, self.beats, self.exponents), self.grid.exp_bits))
        return np.packbits(np.concatenate(parts, -1), axis=-1, bitorder="little")

    def unpack(self, data: Bits) -> Code:
        """Return codes ``[samples, rows, cols]`` from ``[samples, beats, bytes]``, with an order ``[samples, *axes]``."""
        raw = np.unpackbits(data, axis=-1, bitorder="little")[..., : self.bits]
        split, lanes = self.lanes * self.grid.width, self.row_beats * self.lanes
        mantissa = _from_bits(raw[..., :split].reshape(*raw.shape[:2], self.lanes, self.grid.width), self.grid.signed)
        mantissa = mantissa.reshape(raw.shape[0], self.rows, lanes)[..., : self.cols]
        if not self.grid.block:
            return Code(self._held(mantissa, self.axes))
        fields = raw[..., split:].reshape(*raw.shape[:2], self.exponents, self.grid.exp_bits)
        per_row = self.row_beats * self.exponents
        exponent = _from_bits(fields, False).reshape(raw.shape[0], self.rows, per_row) + self.grid.base
        blocks = -(-self.cols // self.grid.block)
        first = np.arange(blocks) * self.grid.block // self.lanes * self.exponents
        inside = np.arange(blocks) % max(1, self.lanes // self.grid.block)
        return Code(self._held(mantissa, self.axes), self._held(exponent[..., first + inside], self._block_axes()))

    def tails(self, data: Bits) -> bool:
        """Tell whether all lanes past the end of a row carry code 0."""
        if self.cols % self.lanes == 0:
            return True
        raw = np.unpackbits(data, axis=-1, bitorder="little")[..., : self.lanes * self.grid.width]
        lanes = raw.reshape(raw.shape[0], self.rows, self.row_beats * self.lanes, self.grid.width)
        return not lanes[:, :, self.cols :].any()

    def travelling(self, code: Code) -> Code:
        """Return codes ``[samples, rows, cols]`` in the order in which they travel, from those of the tensor."""
        mantissa = self._travelling(code.mantissa, self.axes).reshape(-1, self.rows, self.cols)
        if code.exponent is None:
            return Code(mantissa)
        return Code(mantissa, self._travelling(code.exponent, self._block_axes()).reshape(-1, self.rows, self._blocks))

    def held(self, code: Code) -> Code:
        """Return codes ``[samples, *axes]`` as the tensor holds them, from ``[samples, rows, cols]``."""
        exponent = None if code.exponent is None else self._held(code.exponent.numpy(), self._block_axes())
        return Code(self._held(code.mantissa.numpy(), self.axes), exponent)

    @property
    def _blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.cols // max(1, self.grid.block))

    def _block_axes(self) -> tuple[int, ...]:
        """Return the axes of exponents as the tensor holds them: the fastest one counts blocks."""
        if not self.order:
            return ()
        return tuple(self._blocks if i == self.order[-1] else size for i, size in enumerate(self.axes))

    def _travelling(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        if not self.order:
            return x
        return x.reshape(-1, *axes).permute(0, *(1 + i for i in self.order))

    def _held(self, x: npt.NDArray[np.int64], axes: tuple[int, ...]) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(x))
        if not self.order:
            return found
        moved = found.reshape(-1, *(axes[i] for i in self.order))
        return moved.permute(0, *(1 + self.order.index(i) for i in range(len(axes)))).contiguous()

    def _block_of_beat(self) -> npt.NDArray[np.int64]:
        """Return, beat by beat of a row, the index of each block touched (those past the end carry ``base``)."""
        first = np.arange(self.row_beats)[:, None] * self.lanes // self.grid.block
        return (first + np.arange(self.exponents)).reshape(-1)


def _pad(x: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    return np.pad(x, ((0, 0), (0, 0), (0, size - x.shape[-1])))


def _to_bits(x: npt.NDArray[np.int64], width: int) -> Bits:
    bits = (x[..., None] >> np.arange(width)) & 1
    return bits.astype(np.uint8).reshape(*x.shape[:-1], x.shape[-1] * width)


def _from_bits(bits: Bits, signed: bool) -> npt.NDArray[np.int64]:
    weight = np.int64(1) << np.arange(bits.shape[-1], dtype=np.int64)
    if signed:
        weight[-1] = -weight[-1]
    return bits.astype(np.int64) @ weight
