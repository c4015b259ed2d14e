"""Packed weights as tensors of bytes: each field in its true width, so that a file has the bits that are counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import FormatError
from mase.formats.base import Code, Format, QuantParams, parse
from mase.formats.blocks import BlockFormat
from mase.formats.packed import ColumnMap, PackedWeight, Piece, index_width, map_width, ordered
from mase.formats.scales import SCALE_BITS, scale_code, scale_value
from mase.formats.turn import SEED_BITS, Turn

CODES, EXPONENT, BLOCK, SCALE, ZERO, OFFSET, MASK = "codes", "exponent", "block", "scale", "zero", "offset", "mask"
FLOATS: Mapping[str, tuple[torch.dtype, torch.dtype]] = {  # stored by the machine's own conversion
    "short": (torch.float32, torch.int32),
    "fp32": (torch.float32, torch.int32),
    "fp16": (torch.float16, torch.int16),
    "bf16": (torch.bfloat16, torch.int16),
}
CHUNK = 1 << 20  # codes that are packed together
MOST = 1 << 31  # elements of a matrix
Json = Any  # JSON-able


@dataclass(frozen=True)
class _Piece:
    """What a file says of a piece beside its fields; ``of`` is the place of its set of columns, -1 for all."""

    format: str
    shape: tuple[int, int]
    of: int
    fields: dict[str, list[int]]
    axis: int = -1
    axes: tuple[int, ...] | None = None
    seed: int = 0
    base: int | None = None
    masked: bool = False
    derived: bool = False
    threshold: bool = False  # half the scale, which gives the codes of the values again
    paper: float | None = None


@dataclass(frozen=True)
class _Weight:
    shape: tuple[int, int]
    pieces: tuple[_Piece, ...]
    unit: int = 1
    joint: bool = False
    sets: tuple[tuple[int, bool], ...] = ()  # how many columns each has, and whether they rise
    map_bits: float = 0.0
    branch: tuple[dict[str, Any], dict[str, Any]] | None = None
    turn: int | None = None  # the seed


@dataclass(frozen=True)
class _Field:
    """One field of a piece: unsigned integers of ``width`` bits."""

    name: str
    values: Tensor
    width: int


# -- writing ----------------------------------------------------------------------------------------------------------


def to_tensors(weight: PackedWeight) -> tuple[dict[str, Tensor], Json]:
    """Return packed weights as tensors of bytes by name, and what else a reader must know, as JSON.

    Raises:
        FormatError: a field holds what its format does not store, such as a scale that was not rounded to its type.
    """
    columns = ColumnMap.of(weight)
    tensors, pieces = dict(_columns(columns, weight.shape[1])), []
    for i, piece in enumerate(weight.pieces):
        fields = list(_fields(piece, f"packed weights: piece {i} ({piece.format})"))
        tensors |= {f"{i}.{field.name}": pack(field.values, field.width) for field in fields}
        pieces.append(_told(piece, columns.of_piece[i], fields))
    told: dict[str, Json] = {"shape": list(weight.shape), "pieces": pieces, "map_bits": weight.map_bits}
    told |= {"unit": columns.unit, "joint": columns.joint, "sets": [[len(s), ordered(s)] for s in columns.sets]}
    if weight.turn is not None:
        told["turn"] = weight.turn.seed
        tensors["turn"] = pack(
            _real(weight.turn.scale, "fp16", "packed weights: turn", signed=True), SCALE_BITS["fp16"]
        )
    if weight.branch is not None:
        told["branch"] = []
        for name, part in zip("ab", weight.branch, strict=True):
            inner, document = to_tensors(part)
            tensors |= {f"{name}.{key}": tensor for key, tensor in inner.items()}
            told["branch"].append(document)
    return tensors, told


def _told(piece: Piece, place: int, fields: Sequence[_Field]) -> Json:
    params, base = piece.params, piece.params.base
    shapes = {field.name: list(field.values.shape) for field in fields if field.name not in (CODES, MASK)}
    told = {"format": str(piece.format), "shape": list(piece.code.mantissa.shape), "of": place, "fields": shapes}
    told |= {"axis": params.axis, "axes": params.axes, "seed": params.seed, "base": None if base is None else int(base)}
    told |= {"masked": piece.mask is not None, "derived": piece.derived, "paper": piece.paper}
    return told | {"threshold": params.threshold is not None}


def _columns(columns: ColumnMap, inputs: int) -> Iterator[tuple[str, Tensor]]:
    """Yield what says which columns the pieces have."""
    if columns.joint:
        owner = torch.full((inputs,), len(columns.sets))
        for i, own in enumerate(columns.sets):
            owner[own] = i
        covers = not bool((owner == len(columns.sets)).any())
        yield "columns", pack(owner[:: columns.unit], map_width(len(columns.sets), covers))
        return
    for i, own in enumerate(columns.sets):
        flags = torch.zeros(inputs, dtype=torch.int64)
        flags[own] = 1
        rising = ordered(own)
        yield (
            f"columns.{i}",
            pack(flags[:: columns.unit], 1) if rising else pack(own, index_width(inputs)),
        )


def _fields(piece: Piece, where: str) -> Iterator[_Field]:
    fmt, code, params = piece.format, piece.code, piece.params
    codes = code.mantissa if piece.mask is None else code.mantissa[piece.mask]
    yield _Field(CODES, _in(_bare(codes, fmt), _width(fmt), f"{where}: codes"), _width(fmt))
    if code.exponent is not None:
        bits = int(getattr(fmt, "exp_bits", 8))
        yield _Field(EXPONENT, _in(code.exponent - _base(fmt, params), bits, f"{where}: exponents"), bits)
    if code.scale is not None:
        bits = sum(width for _, width in fmt.layout().shared)
        yield _Field(BLOCK, _in(code.scale, bits, f"{where}: scales of blocks"), bits)
    if params.scale is not None:
        kind, signed = _scale_type(fmt)
        yield _Field(SCALE, _real(params.scale, kind, f"{where}: scales", signed), SCALE_BITS[kind] + signed)
    if params.zero_point is not None:
        yield _Field(ZERO, _in(params.zero_point, _width(fmt), f"{where}: zero points"), _width(fmt))
    if params.offset is not None:
        kind = _offset_type(fmt)
        yield _Field(OFFSET, _real(params.offset, kind, f"{where}: offsets", signed=True), SCALE_BITS[kind])
    if piece.mask is not None and not piece.derived:
        yield _Field(MASK, piece.mask.to(torch.int64), 1)


def _width(fmt: Format) -> int:
    return sum(bits for _, bits in fmt.layout().element)


def _base(fmt: Format, params: QuantParams) -> int:
    return fmt.base(params) if isinstance(fmt, BlockFormat) else 0


def _is_sign(fmt: Format) -> bool:
    return _width(fmt) == 1 and fmt.code_range() == (-1, 1)


def _bare(codes: Tensor, fmt: Format) -> Tensor:
    """Return codes as unsigned integers: two's complement, or a sign alone."""
    if _is_sign(fmt):
        return (codes < 0).to(torch.int64)
    return codes & (1 << _width(fmt)) - 1 if fmt.code_range()[0] < 0 else codes


def _signed(bare: Tensor, fmt: Format) -> Tensor:
    """Undo :func:`_bare`."""
    width = _width(fmt)
    if _is_sign(fmt):
        return 1 - 2 * bare
    return bare - ((bare >> width - 1) << width) if fmt.code_range()[0] < 0 else bare


def _in(values: Tensor, width: int, where: str) -> Tensor:
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < 1 << width:
        raise FormatError(
            f"{where}: found {int(values.min())} to {int(values.max())}; {width} bits hold no such number"
        )
    return values


def _scale_type(fmt: Format) -> tuple[str, bool]:
    """Return what the scales of parameters are stored as, and whether a sign is a bit beside."""
    kind = str(getattr(fmt, "scale_type", "fp32"))
    return kind, kind == "e8m0" and bool(getattr(fmt, "full", False))


def _offset_type(fmt: Format) -> str:
    return str(getattr(fmt, "_offset_type", "fp32"))


def _real(values: Tensor, kind: str, where: str, signed: bool) -> Tensor:
    """Return the bit patterns of real numbers that a type has."""
    if kind in FLOATS:
        dtype, bits = FLOATS[kind]
        stored = values.to(dtype)
        same = torch.equal(stored.to(torch.float64), values.to(torch.float64))
        found = stored.view(bits).to(torch.int64) & (1 << SCALE_BITS[kind]) - 1
    else:
        found = scale_code(values.abs() if kind == "e8m0" else values, kind)
        if kind == "e8m0" and signed:
            found = found | (values < 0).to(torch.int64) << 8
        same = torch.equal(_value(found, kind), values)
    if not same:
        raise FormatError(f"{where}: hold a number that {kind} does not have; round them to it before codes are chosen")
    return found


def _value(found: Tensor, kind: str) -> Tensor:
    """Return the float64 numbers of bit patterns."""
    if kind in FLOATS:
        dtype, bits = FLOATS[kind]
        width = SCALE_BITS[kind]
        return (found - ((found >> width - 1) << width)).to(bits).view(dtype).to(torch.float64)
    if kind == "e8m0":
        size = scale_value(found & 255, kind)
        return torch.where(found >> 8 == 1, -size, size)
    return scale_value(found, kind)


# -- reading ----------------------------------------------------------------------------------------------------------


def from_tensors(tensors: Mapping[str, Tensor], told: Json, where: str = "packed weights") -> PackedWeight:
    """Return the packed weights that :func:`to_tensors` gave.

    Raises:
        FormatError: a tensor is missing or of another size, or a field is impossible.
    """
    found = json_text.checked(_Weight, told, where, FormatError)
    if not all(0 < size < MOST for size in found.shape) or math.prod(found.shape) >= MOST:
        raise FormatError(f"{where}: shape is {found.shape}; allowed are matrices of at most {MOST} elements")
    sets = _read_sets(tensors, found, where)
    pieces: list[Piece] = []
    for i, one in enumerate(found.pieces):
        if not -1 <= one.of < len(sets):
            raise FormatError(f"{where}: piece {i} has columns {one.of}; allowed is -1..{len(sets) - 1}")
        own = None if one.of < 0 else sets[one.of]
        if one.shape != (found.shape[0], found.shape[1] if own is None else len(own)):
            raise FormatError(f"{where}: piece {i} has shape {one.shape}; its columns say otherwise")
        pieces.append(_read_piece(_Reader(tensors, f"{i}.", f"{where}: piece {i}"), one, own, pieces))
    branch = None
    if found.branch is not None:
        parts = [
            from_tensors({k[2:]: t for k, t in tensors.items() if k.startswith(f"{name}.")}, inner, where)
            for name, inner in zip("ab", found.branch, strict=True)
        ]
        branch = parts[0], parts[1]
    turn = None if found.turn is None else _read_turn(_Reader(tensors, "", f"{where}: turn"), found)
    return PackedWeight(found.shape, tuple(pieces), found.map_bits, branch, turn)


def _read_turn(reader: _Reader, told: _Weight) -> Turn:
    assert told.turn is not None
    if not 0 <= told.turn < 1 << SEED_BITS:
        raise FormatError(f"{reader.where}: the seed is {told.turn}; allowed is 0..{(1 << SEED_BITS) - 1}")
    return Turn(told.turn, _value(reader("turn", [told.shape[1]], SCALE_BITS["fp16"]), "fp16"))


@dataclass(frozen=True)
class _Reader:
    """Tensors of bytes whose names begin alike."""

    tensors: Mapping[str, Tensor]
    prefix: str
    where: str

    def __call__(self, name: str, shape: Sequence[int], width: int) -> Tensor:
        """Return the integers of a field."""
        raw = self.tensors.get(self.prefix + name)
        count = math.prod(shape)
        if (
            raw is None
            or raw.dtype != torch.uint8
            or raw.numel() != -(-count * width // 8)
            or min(shape, default=1) < 0
        ):
            size = "missing" if raw is None else f"{raw.dtype} of {raw.numel()}"
            raise FormatError(f"{self.where}: {name} is {size}; needed are {-(-count * width // 8)} bytes")
        return unpack(raw, width, count).reshape(tuple(shape))


def _read_sets(tensors: Mapping[str, Tensor], found: _Weight, where: str) -> list[Tensor]:
    inputs, unit = found.shape[1], found.unit
    if unit < 1 or inputs % unit:
        raise FormatError(f"{where}: unit of columns is {unit}; allowed are divisors of {inputs}")
    if not found.sets:
        return []
    reader, sizes = _Reader(tensors, "", where), [size for size, _ in found.sets]
    if found.joint:
        width = map_width(len(sizes), sum(sizes) == inputs)
        owner = reader("columns", [inputs // unit], width).repeat_interleave(unit)
        sets = [(owner == i).nonzero().flatten() for i in range(len(sizes))]
    else:
        sets = [_read_set(reader, f"columns.{i}", *one, inputs, unit) for i, one in enumerate(found.sets)]
    if any(len(own) != size or bool((own >= inputs).any()) for own, size in zip(sets, sizes, strict=True)):
        raise FormatError(f"{where}: the sets of columns are not those that are told")
    return sets


def _read_set(reader: _Reader, name: str, size: int, rising: bool, inputs: int, unit: int) -> Tensor:
    if not rising:
        return reader(name, [size], index_width(inputs))
    return reader(name, [inputs // unit], 1).repeat_interleave(unit).nonzero().flatten()


def _read_piece(reader: _Reader, told: _Piece, columns: Tensor | None, before: Sequence[Piece]) -> Piece:
    fmt, shape = parse(told.format), told.shape
    mask = _read_mask(reader, told, before) if told.masked else None
    count = list(shape) if mask is None else [int(mask.sum())]
    codes = _signed(reader(CODES, count, _width(fmt)), fmt)
    if mask is not None:
        codes = torch.zeros(shape, dtype=torch.int64).masked_scatter_(mask, codes)
    code, params = Code(codes), QuantParams(axis=told.axis, axes=told.axes, seed=told.seed)
    if told.base is not None:
        params = replace(params, base=torch.tensor(told.base))
    if EXPONENT in told.fields:
        stored = reader(EXPONENT, told.fields[EXPONENT], int(getattr(fmt, "exp_bits", 8)))
        code = replace(code, exponent=stored + _base(fmt, params))
    if BLOCK in told.fields:
        bits = sum(width for _, width in fmt.layout().shared)
        code = replace(code, scale=reader(BLOCK, told.fields[BLOCK], bits))
    if SCALE in told.fields:
        kind, signed = _scale_type(fmt)
        params = replace(params, scale=_value(reader(SCALE, told.fields[SCALE], SCALE_BITS[kind] + signed), kind))
    if told.threshold:
        half = torch.tensor(0.5, dtype=torch.float64)
        params = replace(params, threshold=half if params.scale is None else params.scale / 2)
    if ZERO in told.fields:
        params = replace(params, zero_point=reader(ZERO, told.fields[ZERO], _width(fmt)))
    if OFFSET in told.fields:
        kind = _offset_type(fmt)
        params = replace(params, offset=_value(reader(OFFSET, told.fields[OFFSET], SCALE_BITS[kind]), kind))
    return Piece(fmt, params, code, columns, mask, told.derived, told.paper)


def _read_mask(reader: _Reader, told: _Piece, before: Sequence[Piece]) -> Tensor:
    if not told.derived:
        return reader(MASK, told.shape, 1).to(torch.bool)
    if not before or before[-1].mask is None or tuple(before[-1].mask.shape) != told.shape:
        raise FormatError(f"{reader.where}: has the complement of a mask; the piece before it has none of this shape")
    return ~before[-1].mask


# -- bits -------------------------------------------------------------------------------------------------------------


def pack(values: Tensor, width: int) -> Tensor:
    """Return unsigned integers of ``width`` bits behind each other, the first in the lowest bits, as bytes."""
    flat = values.reshape(-1).cpu()
    if width in (8, 16, 32):
        kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[width]
        low = flat if width == 8 else flat - ((flat >> width - 1) << width)
        return low.to(kind).view(torch.uint8)
    if 8 % width == 0:
        return _packed_in_bytes(flat, width)
    step = CHUNK // 8 * 8
    parts = [_packed_bits(flat[start : start + step], width) for start in range(0, len(flat), step)]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def _packed_in_bytes(flat: Tensor, width: int) -> Tensor:
    per = 8 // width
    small = torch.zeros(-(-len(flat) // per) * per, dtype=torch.uint8)
    small[: len(flat)] = flat.to(torch.uint8)
    rows, out = small.view(-1, per), torch.zeros(len(small) // per, dtype=torch.uint8)
    for i in range(per):
        out |= rows[:, i] << i * width
    return out


def _packed_bits(flat: Tensor, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    numbers = flat.numpy()
    bits = np.empty((len(numbers), width), dtype=np.uint8)
    for i in range(width):
        bits[:, i] = numbers >> i & 1
    return np.packbits(bits, bitorder="little")


def unpack(raw: Tensor, width: int, count: int) -> Tensor:
    """Return the first ``count`` integers of :func:`pack`, int64."""
    if width in (8, 16, 32):
        kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[width]
        return raw.contiguous().clone().view(kind).to(torch.int64)[:count] & (1 << width) - 1
    if 8 % width == 0:
        shifts = torch.arange(0, 8, width, dtype=torch.uint8)
        return (raw.unsqueeze(1) >> shifts & (1 << width) - 1).reshape(-1)[:count].to(torch.int64)
    out, step = torch.empty(count, dtype=torch.int64), CHUNK // 8 * 8
    for start in range(0, count, step):
        many = min(step, count - start)
        part = raw[start * width // 8 : -(-(start + many) * width // 8)].numpy()
        bits = np.unpackbits(part, count=many * width, bitorder="little").reshape(many, width)
        found = np.zeros(many, dtype=np.int64)
        for i in range(width):
            found |= bits[:, i].astype(np.int64) << i
        out[start : start + many] = torch.from_numpy(found)
    return out
