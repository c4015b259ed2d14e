"""Pack and unpack the streams of an accelerator that mase emitted. It needs numpy, and nothing of mase.

A copy of this file lies in every emitted folder, beside the ``design.json`` that it reads:

    import numpy as np
    from host import Edge

    feed, give = Edge.load("design.json")
    beats = feed.pack(*feed.encode(x))  # x: float [samples, *feed.shape]; beats: uint8 [samples, beats, bytes]
    y = give.decode(*give.unpack(answer))  # answer: uint8 [samples, beats, bytes]; y: float64 [samples, *give.shape]

Of a design with several inputs or outputs ``Edge.ports("design.json")`` gives them by name. Codes are int64 mantissas
``[samples, *shape]``, and for formats with blocks exponents, with the axis of the blocks counting these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Edge:
    """One end of the accelerator, as ``design.json`` describes it.

    Args:
        shape: of one sample. format: name of the number format.
        axes, order: sizes that the flat index of an element factors into, and these axes as they travel, the last one
            fastest. rows, cols: a sample as it travels. lanes: elements of a beat.
        beats: of one sample. beat_bits: of one beat; beat_bytes: the same, padded.
        width, signed, low, high: bits, sign, least and greatest value of a mantissa. zero: the mantissa of 0.
        unit, scale: the real value is ``(mantissa - zero) * 2**unit``, or ``* scale`` where there is a scale.
        pattern: how a mantissa is read that is a pattern of sign, exponent and digits.
        block, exponents, exp_bits, exp_base, exp_span: elements that share an exponent (0: there is none), exponents
            of a beat, bits of one, value of the field 0, greatest field.
        scales: how a field is read that is a scale in place of an exponent, a pattern too; ``unit`` is its share.
        rounding: of :meth:`encode`; None where only mase can round as this format does.
    """

    shape: tuple[int, ...]
    format: str
    axes: tuple[int, ...]
    order: tuple[int, ...]
    rows: int
    cols: int
    lanes: int
    beats: int
    beat_bits: int
    beat_bytes: int
    width: int
    signed: bool
    low: int
    high: int
    zero: int
    pattern: dict[str, int] | None
    unit: int
    scale: float | None
    block: int
    exponents: int
    exp_bits: int
    exp_base: int
    exp_span: int
    scales: dict[str, int] | None
    rounding: str | None

    @classmethod
    def load(cls, path: str | Path) -> tuple[Edge, Edge]:
        """Read ``design.json`` of a design with one input and one output; return what the host feeds and reads."""
        feed, give = cls.ports(path).values()
        return feed, give

    @classmethod
    def ports(cls, path: str | Path) -> dict[str, Edge]:
        """Read ``design.json``; return what travels on each port, by its name, inputs first."""
        design = json.loads(Path(path).read_text())
        edges = {entry["name"]: entry for entry in design["edges"]}
        return {port["name"]: cls.of(edges[port["edge"]]) for port in design["ports"]}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Edge:  # Any: JSON
        """Return one of the edges of ``design.json``."""
        entry = {"scales": None, **entry}  # folders that were written before there were any do not name them
        found = {field.name: entry[field.name] for field in fields(cls)}
        return cls(**{**found, **{name: tuple(found[name]) for name in ("shape", "axes", "order")}})

    # -- reals and codes ----------------------------------------------------------------------------------------------

    def encode(self, x: npt.ArrayLike) -> tuple[Ints, Ints | None]:
        """Return mantissas and exponents of real values ``[samples, *shape]``: rounded, saturated."""
        real = np.asarray(x, np.float64).reshape(-1, *self.shape)
        if np.isnan(real).any():
            raise ValueError("the data hold NaN; NaN has no code")
        if not self.block:
            return self._rounded(real / self._step()), None
        rows = self._travelling(real, self.axes)
        count = -(-self.cols // self.block)
        blocks = _padded(rows, count * self.block).reshape(*rows.shape[:2], count, self.block)
        top = np.abs(blocks).max(-1)
        exponent = np.clip(_floor_log2(top), self.exp_base, self.exp_base + self.exp_span)
        scaled = blocks / np.ldexp(1.0, exponent - self.exp_base + self.unit)[..., None]
        mantissa = self._rounded(scaled).reshape(*rows.shape[:2], -1)[..., : self.cols]
        return self._held(mantissa, self.axes).reshape(real.shape), self._held(exponent, self._block_axes())

    def decode(self, mantissa: Ints, exponent: Ints | None = None) -> Reals:
        """Return real values ``[samples, *shape]``."""
        real = self._number(self._travelling(np.asarray(mantissa), self.axes))
        if self.block:
            if exponent is None:
                raise ValueError(f"{self.format} has exponents; found none")
            each = self._travelling(np.asarray(exponent), self._block_axes()).repeat(self.block, -1)[..., : self.cols]
            real = self._scaled(real, each)
        else:
            real = real * np.float64(self._step())
        held: Reals = self._held(real, self.axes)
        return held.reshape(-1, *self.shape)

    def _scaled(self, real: Reals, field: Ints) -> Reals:
        """Return numbers times the exponents, or the scales, of their blocks."""
        if self.scales is None:
            return np.ldexp(real * np.float64(self._step()), field - self.exp_base).astype(np.float64)
        unit = self.scales["unit"]  # of a scale; the rest is that of an element
        scale = np.ldexp(_numbers(field, self.scales), unit).astype(np.float32)  # all in float32, as the format is
        step = scale * np.float32(1 if self.scale is None else self.scale)
        return (np.ldexp(real, self.unit - unit).astype(np.float32) * step).astype(np.float64)

    def _number(self, m: Ints) -> Reals:
        """Return what mantissas stand for, before unit or scale."""
        return (m - self.zero).astype(np.float64) if self.pattern is None else _numbers(m, self.pattern)

    def _step(self) -> float:
        return self.scale if self.scale is not None else 2.0**self.unit

    def _rounded(self, v: Reals) -> Ints:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"{self.format}: its rounding needs mase; encode there, and pack the codes here")
        near = np.clip(v, self.low - self.zero - 1, self.high - self.zero + 1)  # no infinity is left
        return np.clip(ROUNDINGS[self.rounding](near) + self.zero, self.low, self.high).astype(np.int64)

    # -- codes and beats ----------------------------------------------------------------------------------------------

    def pack(self, mantissa: Ints, exponent: Ints | None = None, beat_bytes: int = 0) -> Bytes:
        """Return ``[samples, beats, bytes]``, the lowest byte first.

        Args:
            beat_bytes: of a wider bus, such as ``axis`` in ``design.json``; the bytes above are 0.
        """
        m = self._travelling(np.asarray(mantissa, np.int64), self.axes)
        row_beats = self.beats // self.rows
        lanes = _padded(m, row_beats * self.lanes).reshape(-1, self.beats, self.lanes)
        parts = [_to_bits(lanes, self.width)]
        if self.block:
            if exponent is None:
                raise ValueError(f"{self.format} has exponents; found none")
            blocks = self._travelling(np.asarray(exponent, np.int64), self._block_axes()) - self.exp_base
            index = self._blocks_of_a_row()
            spread = _padded(blocks, int(index.max()) + 1)[..., index]
            parts.append(_to_bits(spread.reshape(-1, self.beats, self.exponents), self.exp_bits))
        data = np.packbits(np.concatenate(parts, -1), axis=-1, bitorder="little")
        return np.pad(data, ((0, 0), (0, 0), (0, max(0, beat_bytes - data.shape[-1]))))

    def unpack(self, data: Bytes) -> tuple[Ints, Ints | None]:
        """Return mantissas and exponents of ``[samples, beats, bytes]``; bits above ``beat_bits`` are not looked at."""
        beats = np.asarray(data, np.uint8)
        beats = beats.reshape(-1, self.beats, beats.shape[-1])
        raw = np.unpackbits(beats, axis=-1, bitorder="little")[..., : self.beat_bits]
        split, n = self.lanes * self.width, beats.shape[0]
        lanes = _from_bits(raw[..., :split].reshape(n, self.beats, self.lanes, self.width), self.signed)
        rows = lanes.reshape(n, self.rows, -1)[..., : self.cols]
        mantissa = self._held(rows, self.axes).reshape(n, *self.shape)
        if not self.block:
            return mantissa, None
        fields_ = raw[..., split:].reshape(n, self.beats, self.exponents, self.exp_bits)
        found = _from_bits(fields_, signed=False).reshape(n, self.rows, -1) + self.exp_base
        blocks = np.arange(-(-self.cols // self.block))
        first = blocks * self.block // self.lanes * self.exponents + blocks % max(1, self.lanes // self.block)
        return mantissa, self._held(found[..., first], self._block_axes())

    # -- order --------------------------------------------------------------------------------------------------------

    def _travelling(self, x: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:  # Any: reals or codes
        """Return ``[samples, rows, cols]`` as they travel."""
        moved = x.reshape(-1, *axes).transpose(0, *(1 + i for i in self.order))
        return moved.reshape(moved.shape[0], self.rows, axes[self.order[-1]])

    def _held(self, x: npt.NDArray[Any], axes: tuple[int, ...]) -> npt.NDArray[Any]:  # Any: reals or codes
        """Return ``[samples, *axes]``, from what travels."""
        moved = x.reshape(-1, *(axes[i] for i in self.order))
        return np.ascontiguousarray(moved.transpose(0, *(1 + self.order.index(i) for i in range(len(axes)))))

    def _block_axes(self) -> tuple[int, ...]:
        count = -(-self.cols // self.block)
        return tuple(count if i == self.order[-1] else size for i, size in enumerate(self.axes))

    def _blocks_of_a_row(self) -> Ints:
        """Return, beat by beat of a row, the index of each block whose exponent travels with it."""
        first = np.arange(self.beats // self.rows)[:, None] * self.lanes // self.block
        return (first + np.arange(self.exponents)).reshape(-1)


def _numbers(codes: Ints, pattern: dict[str, int]) -> Reals:
    """Return what bit patterns of sign, exponent and digits stand for, in units of the least number above 0."""
    man, subnormal, bits = pattern["man"], pattern["subnormal"], pattern["exp"] + pattern["man"]
    code = np.minimum(codes & (1 << bits) - 1, pattern["top"])
    field, fraction = code >> man, code & (1 << man) - 1
    digits = fraction + (np.where(field > 0, 1 << man, 0) if subnormal else 1 << man)
    size = np.ldexp(digits.astype(np.float64), np.maximum(field - subnormal, 0))
    signed: Reals = np.where(codes >> bits & 1, -size, size)
    return signed


def _half_up(v: Reals) -> Reals:
    down = np.floor(v)
    return down + (v - down >= 0.5)


ROUNDINGS: dict[str | None, Callable[[Reals], Reals]] = {
    "even": np.rint,
    "half_up": _half_up,
    "half_away": lambda v: np.copysign(_half_up(np.abs(v)), v),
    "floor": np.floor,
    "ceil": np.ceil,
    "zero": np.trunc,
}


def _padded(x: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:  # Any: reals or codes
    return np.pad(x, ((0, 0), (0, 0), (0, max(0, size - x.shape[-1]))))


def _floor_log2(x: Reals) -> Ints:
    return ((np.ascontiguousarray(x).view(np.int64) >> 52) & 0x7FF) - 1023


def _to_bits(x: Ints, width: int) -> Bytes:
    bits = (x[..., None] >> np.arange(width)) & 1
    return bits.astype(np.uint8).reshape(*x.shape[:-1], x.shape[-1] * width)


def _from_bits(bits: Bytes, signed: bool) -> Ints:
    weight = np.int64(1) << np.arange(bits.shape[-1], dtype=np.int64)
    if signed:
        weight[-1] = -weight[-1]
    return bits.astype(np.int64) @ weight
