"""Streams between blocks: how a tensor's codes become beats, and beats become codes.

See docs/arithmetic.md, "Streams and beats".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mase.formats import Code
from mase.formats.grid import Grid

Bits = npt.NDArray[np.uint8]


class Travel(NamedTuple):
    """Say in which order the elements of a sample travel.

    Args:
        axes: sizes that the flat index of an element factors into. order: axes as they travel, the last one fastest.
    """

    axes: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], axis: int = -1) -> Self:
        """Return the order in which one axis of a sample is the fastest, and the others keep theirs."""
        axes = tuple(shape) or (1,)
        fastest = axis % len(axes)
        return cls(axes, (*(i for i in range(len(axes)) if i != fastest), fastest))

    @property
    def cols(self) -> int:
        """Elements of a row: along the fastest axis."""
        return self.axes[self.order[-1]]

    @property
    def rows(self) -> int:
        """Rows of a sample."""
        return math.prod(self.axes[i] for i in self.order[:-1])

    @property
    def plain(self) -> bool:
        """Tell whether elements travel as the tensor holds them; axes of size 1 do not count."""
        moved = [i for i in self.order if self.axes[i] > 1]
        return moved == sorted(moved)

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Return the distance and the number of the elements along each axis, as they travel.

        Neighbours that follow on count as one axis, so orders are equal where these are.
        """
        apart = [math.prod(self.axes[i + 1 :]) for i in range(len(self.axes))]
        out: list[tuple[int, int]] = []
        for i in self.order:
            if out and out[-1][0] == apart[i] * self.axes[i]:
                out[-1] = apart[i], out[-1][1] * self.axes[i]
            elif self.axes[i] > 1:
                out.append((apart[i], self.axes[i]))
        return tuple(out)

    def parted(self, cols: int) -> Travel:
        """Return the same order with rows of so many elements, a divisor of those that there are."""
        fast = self.order[-1]
        assert self.cols % cols == 0
        axes = (*self.axes[:fast], self.cols // cols, cols, *self.axes[fast + 1 :])
        return Travel(axes, (*(i + (i > fast) for i in self.order[:-1]), fast, fast + 1))

    def stream(self, lanes: int, grid: Grid) -> StreamType:
        """Return the stream of such a tensor."""
        return StreamType(self.rows, self.cols, lanes, grid, self)

    def travelling(self, code: Code, block: int = 0) -> Code:
        """Return codes ``[samples, rows, cols]`` in the order in which they travel, from those that the tensor holds.

        Args:
            block: elements of a row that share an exponent; 0 without exponents.
        """
        mantissa = self._moved(code.mantissa, self.axes).reshape(-1, self.rows, self.cols)
        if code.exponent is None:
            return Code(mantissa)
        axes = self.block_axes(block)
        return Code(mantissa, self._moved(code.exponent, axes).reshape(-1, self.rows, axes[self.order[-1]]))

    def held(self, code: Code, shape: Sequence[int], block: int = 0) -> Code:
        """Return codes as a tensor of this shape holds them, from ``[samples, rows, cols]``; exponents by block."""
        mantissa = self._back(code.mantissa, self.axes).reshape(-1, *shape)
        if code.exponent is None:
            return Code(mantissa)
        return Code(mantissa, self._back(code.exponent, self.block_axes(block)))

    def block_axes(self, block: int) -> tuple[int, ...]:
        """Return the axes of a sample's exponents: the fastest one counts blocks."""
        blocks = -(-self.cols // max(1, block))
        return tuple(blocks if i == self.order[-1] else size for i, size in enumerate(self.axes))

    def _moved(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.reshape(-1, *axes).permute(0, *(1 + i for i in self.order))

    def _back(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        moved = x.reshape(-1, *(axes[i] for i in self.order))
        return moved.permute(0, *(1 + self.order.index(i) for i in range(len(axes)))).contiguous()


@dataclass(frozen=True)
class StreamType:
    """Describe a stream: rows of ``cols`` elements, ``lanes`` a beat; rows never share a beat, tail lanes carry 0.

    A beat is ``lanes * width`` bits, lane 0 lowest, then one exponent (less ``base``) for each block it touches.

    Elements travel in the order in which the tensor holds them, or in another: images travel pixel by pixel, all
    channels of a pixel together. Blocks neither know nor care, so streams of different orders are equal.

    Args:
        travel: how the tensor's elements come to travel so; None where they travel as the tensor holds them.
    """

    rows: int
    cols: int
    lanes: int
    grid: Grid
    travel: Travel | None = field(default=None, compare=False)

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
        code = self._rows(code)
        mantissa = code.mantissa.numpy()
        padded = _pad(mantissa, self.row_beats * self.lanes)
        parts = [_to_bits(padded.reshape(-1, self.beats, self.lanes), self.grid.width)]
        if self.grid.block:
            assert code.exponent is not None
            exponent = code.exponent.numpy() - self.grid.base
            index = self._block_of_beat()
            spread = _pad(exponent, int(index.max()) + 1)[..., index]
            parts.append(_to_bits(spread.reshape(-1, self.beats, self.exponents), self.grid.exp_bits))
        return np.packbits(np.concatenate(parts, -1), axis=-1, bitorder="little")

    def unpack(self, data: Bits) -> Code:
        """Return codes ``[samples, rows, cols]`` as they travel, from ``[samples, beats, bytes]``."""
        raw = np.unpackbits(data, axis=-1, bitorder="little")[..., : self.bits]
        split, lanes = self.lanes * self.grid.width, self.row_beats * self.lanes
        mantissa = _from_bits(raw[..., :split].reshape(*raw.shape[:2], self.lanes, self.grid.width), self.grid.signed)
        mantissa = mantissa.reshape(raw.shape[0], self.rows, lanes)[..., : self.cols]
        if not self.grid.block:
            return Code(torch.from_numpy(np.ascontiguousarray(mantissa)))
        fields = raw[..., split:].reshape(*raw.shape[:2], self.exponents, self.grid.exp_bits)
        per_row = self.row_beats * self.exponents
        exponent = _from_bits(fields, False).reshape(raw.shape[0], self.rows, per_row) + self.grid.base
        blocks = -(-self.cols // self.grid.block)
        first = np.arange(blocks) * self.grid.block // self.lanes * self.exponents
        inside = np.arange(blocks) % max(1, self.lanes // self.grid.block)
        return Code(torch.from_numpy(np.ascontiguousarray(mantissa)), torch.from_numpy(exponent[..., first + inside]))

    def tails(self, data: Bits) -> bool:
        """Tell whether all lanes past the end of a row carry code 0; beside a zero point they carry anything."""
        if self.cols % self.lanes == 0 or self.grid.zero:
            return True
        raw = np.unpackbits(data, axis=-1, bitorder="little")[..., : self.lanes * self.grid.width]
        lanes = raw.reshape(raw.shape[0], self.rows, self.row_beats * self.lanes, self.grid.width)
        return not lanes[:, :, self.cols :].any()

    def held(self, code: Code, shape: Sequence[int]) -> Code:
        """Return codes as a tensor of this shape holds them, from ``[samples, rows, cols]``."""
        travel = self.travel or Travel.of(shape)
        return travel.held(code, shape, self.grid.block)

    def _rows(self, code: Code) -> Code:
        """Return codes ``[samples, rows, cols]`` from those that the tensor holds."""
        if self.travel is not None:
            code = self.travel.travelling(code, self.grid.block)
        mantissa = code.mantissa.reshape(-1, self.rows, self.cols)
        if code.exponent is None:
            return Code(mantissa)
        return Code(mantissa, code.exponent.reshape(-1, self.rows, -(-self.cols // self.grid.block)))

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
    width = bits.shape[-1]
    if width > 63:  # an inner stream, of integers with 53 significant bits or fewer
        return _from_many_bits(bits, signed)
    weight = np.int64(1) << np.arange(width, dtype=np.int64)
    if signed:
        weight[-1] = -weight[-1]
    return bits.astype(np.int64) @ weight


def _from_many_bits(bits: Bits, signed: bool) -> npt.NDArray[Any]:  # of float64
    places = bits.shape[-1]
    whole = [int.from_bytes(row.tobytes(), "little") for row in np.packbits(bits.reshape(-1, places), -1, "little")]
    past = 1 << places
    values = [float(x - past if signed and x >> places - 1 else x) for x in whole]
    return np.array(values).reshape(bits.shape[:-1])
