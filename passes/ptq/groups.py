"""Formats whose groups lie along the inputs: a real step for each group, and rounding of elements in units of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.formats import Code, Format, QuantParams, parse
from mase.formats.base import floor_log2, pow2
from mase.formats.blocks import BlockFormat
from mase.formats.codebook import TableBlocks
from mase.formats.int import Int
from mase.formats.nvfp4 import ELEMENT, LEAST_SCALE, NVFP4, SCALE
from mase.formats.packed import Piece
from mase.formats.scales import round_scale, scale_code

NATIVE: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CHUNK = 1 << 16  # weights that a search works on at a time: a few float32 buffers of them fit a cache


@dataclass(frozen=True, eq=False)
class Steps:
    """What the groups of a matrix share.

    Args:
        step: real weight of one code, float64 ``[outputs, groups]``, may be negative.
        zero: code of real zero, int64, or None. offset: real value of code 0, float64, or None.
    """

    step: Tensor
    zero: Tensor | None = None
    offset: Tensor | None = None

    def at(self, groups: Tensor | slice) -> Steps:
        """Return those of some groups."""
        parts = (None if t is None else t[:, groups] for t in (self.step, self.zero, self.offset))
        return Steps(*parts)  # type: ignore[arg-type]  # a step is there

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """Put groups beside each other."""
        first = parts[0]
        zero = None if first.zero is None else torch.cat([p.zero for p in parts if p.zero is not None], 1)
        offset = None if first.offset is None else torch.cat([p.offset for p in parts if p.offset is not None], 1)
        return cls(torch.cat([p.step for p in parts], 1), zero, offset)


class Groups(ABC):
    """A format whose elements are rounded on their own once the steps of their groups are fixed."""

    def __init__(self, fmt: Format, params: QuantParams, inputs: int, size: int) -> None:
        self.fmt, self.params, self.inputs = fmt, params, inputs
        self.size = min(size or inputs, inputs)
        self.low, self.high = fmt.code_range()

    @abstractmethod
    def fit(self, x: Tensor) -> Steps:
        """Return the steps that the format itself chooses for ``x [outputs, columns]``, columns of whole groups."""

    @abstractmethod
    def snap(self, step: Tensor) -> Tensor:
        """Return the nearest steps that the format stores."""

    @abstractmethod
    def codes(self, units: Tensor) -> Tensor:
        """Return the codes of elements in units of their step, less their zero."""

    @abstractmethod
    def reals(self, codes: Tensor) -> Tensor:
        """Return what codes weigh in units of their step."""

    @abstractmethod
    def code(self, codes: Tensor, steps: Steps) -> tuple[QuantParams, Code]:
        """Return what is stored of codes and steps."""

    @property
    def count(self) -> int:
        """Groups of a row."""
        return -(-self.inputs // self.size)

    def group_of(self) -> Tensor:
        """Return the group of every column."""
        return torch.arange(self.inputs) // self.size

    def spread(self, shared: Tensor, columns: int | None = None) -> Tensor:
        """Return one number a weight of one number a group."""
        return shared.repeat_interleave(self.size, 1)[:, : self.inputs if columns is None else columns]

    def piece(self, codes: Tensor, steps: Steps, columns: Tensor | None = None) -> Piece:
        """Return codes that a method chose as they are stored."""
        params, code = self.code(codes, steps)
        return Piece(self.fmt, params, code, columns)

    def nearest(self, x: Tensor, steps: Steps) -> Piece:
        """Return ``x`` rounded to the nearest codes under given steps."""
        units = x.to(torch.float64) if steps.offset is None else x - self.spread(steps.offset, x.shape[1])
        units = units / self.spread(steps.step, x.shape[1])
        zero = None if steps.zero is None else self.spread(steps.zero, x.shape[1])
        return self.piece(self.shifted(units, zero), steps)

    def shifted(self, units: Tensor, zero: Tensor | None) -> Tensor:
        """Return the codes of elements in units of their step."""
        return self.codes(units)


class IntGroups(Groups):
    """Integers: a scale a group or a row, with a zero point or an offset."""

    fmt: Int

    def fit(self, x: Tensor) -> Steps:
        fmt = self.fmt
        p = fmt.calibrate(x, -1 if fmt.group else 0)
        assert p.scale is not None
        rows = (len(x), -1)
        shape = [
            None if t is None else t.expand(len(x)) if t.ndim == 0 else t for t in (p.scale, p.zero_point, p.offset)
        ]
        step, zero, offset = (None if t is None else t.reshape(rows) for t in shape)
        assert step is not None
        return Steps(step, zero, offset)

    def snap(self, step: Tensor) -> Tensor:
        kind = NATIVE.get(self.fmt.scale_type)
        if kind is None:
            return round_scale(step.to(torch.float64), self.fmt.scale_type)
        top, least = torch.finfo(kind).max, torch.finfo(kind).smallest_normal
        stored = step.clamp(-top, top).to(kind).to(torch.float64)
        if bool((stored.abs() >= least).all()):
            return stored
        return round_scale(step.to(torch.float64), self.fmt.scale_type)

    def codes(self, units: Tensor) -> Tensor:
        return units.round().clamp_(self.low, self.high).to(torch.int64)

    def shifted(self, units: Tensor, zero: Tensor | None) -> Tensor:
        code = units.round()
        code = code if zero is None else code + zero
        return code.clamp_(self.low, self.high).to(torch.int64)

    def reals(self, codes: Tensor) -> Tensor:
        return codes.to(torch.float32)

    def code(self, codes: Tensor, steps: Steps) -> tuple[QuantParams, Code]:
        fmt = self.fmt
        shared = (steps.step, steps.zero, steps.offset)
        scale, zero, offset = (t if t is None or fmt.group else t.reshape(-1) for t in shared)
        return QuantParams(scale, zero, axis=-1 if fmt.group else 0, offset=offset), Code(codes)


class PowerGroups(Groups):
    """Blocks that share a power of two: integers, minifloats, logarithms."""

    fmt: BlockFormat

    def fit(self, x: Tensor) -> Steps:
        exponent = self.fmt.encode(x, self.params).exponent
        assert exponent is not None
        return Steps(pow2(exponent - self.fmt.offset))

    def snap(self, step: Tensor) -> Tensor:
        low = self.fmt.base(self.params)
        exponent = floor_log2(step.to(torch.float64).abs() * 2**0.5) + self.fmt.offset
        return pow2(exponent.clamp(low, low + self.fmt.span) - self.fmt.offset)

    def codes(self, units: Tensor) -> Tensor:
        return self.fmt._put(units.to(torch.float64).clone(), 0)

    def reals(self, codes: Tensor) -> Tensor:
        return self.fmt._get(codes)

    def code(self, codes: Tensor, steps: Steps) -> tuple[QuantParams, Code]:
        return self.params, Code(codes, floor_log2(steps.step) + self.fmt.offset)


class NvGroups(Groups):
    """E2M1 elements under a scale in E4M3 a block and one in float32 for the matrix."""

    fmt: NVFP4

    def fit(self, x: Tensor) -> Steps:
        scale = self.fmt.encode(x, self.params).scale
        assert scale is not None
        return Steps(SCALE.reals(scale) * self._tensor())

    def snap(self, step: Tensor) -> Tensor:
        wanted = (step.to(torch.float64).abs() / self._tensor()).clamp(LEAST_SCALE, SCALE.top)
        return SCALE.reals(SCALE.codes(wanted)) * self._tensor()

    def codes(self, units: Tensor) -> Tensor:
        return ELEMENT.codes(units.to(torch.float64).clamp(-ELEMENT.top, ELEMENT.top))

    def reals(self, codes: Tensor) -> Tensor:
        return ELEMENT.reals(codes)

    def code(self, codes: Tensor, steps: Steps) -> tuple[QuantParams, Code]:
        return self.params, Code(codes, scale=SCALE.codes(steps.step / self._tensor()))

    def _tensor(self) -> Tensor:
        assert self.params.scale is not None
        return self.params.scale


class TableGroups(Groups):
    """Entries of a table under a real scale a block."""

    fmt: TableBlocks

    def fit(self, x: Tensor) -> Steps:
        parts = torch.split(x.to(torch.float64), self.size, 1)
        return Steps(torch.cat([self.fmt._scales(part) for part in parts], 1))

    def snap(self, step: Tensor) -> Tensor:
        return round_scale(step.to(torch.float64).abs(), self.fmt.scale_type)

    def codes(self, units: Tensor) -> Tensor:
        entries = self.fmt._entries(units)
        return torch.bucketize(units.to(torch.float64).contiguous(), (entries[1:] + entries[:-1]) / 2)

    def reals(self, codes: Tensor) -> Tensor:
        return self.fmt._entries(codes)[codes]

    def code(self, codes: Tensor, steps: Steps) -> tuple[QuantParams, Code]:
        return self.params, Code(codes, scale=scale_code(steps.step, self.fmt.scale_type))


FAMILIES: tuple[tuple[type[Format], type[Groups], str], ...] = (
    (Int, IntGroups, "group"),
    (BlockFormat, PowerGroups, "block"),
    (NVFP4, NvGroups, "block"),
    (TableBlocks, TableGroups, "block"),
)


def grouped(where: str, text: str) -> Format:
    """Return a format that has groups along the inputs.

    Raises:
        ConfigError: it has none.
    """
    fmt = parse(text)
    _family(fmt, where)
    return fmt


def _family(fmt: Format, where: str) -> tuple[type[Groups], str]:
    """Return how groups of a format are rounded, and the name of the field that is their size."""
    tensor = isinstance(fmt, Int) and not fmt.group and not fmt.channel
    for kind, groups, field in FAMILIES:
        if isinstance(fmt, kind) and not tensor and not getattr(fmt, "outer", ()) and not getattr(fmt, "compat", ""):
            return groups, field
    raise ConfigError(
        f"{where}: format {fmt} has no groups along the inputs; allowed are integers with a scale a group or channel, "
        "block formats along one axis, nvfp4, nf and codebook"
    )


def groups_of(fmt: Format, weight: Tensor, where: str) -> Groups:
    """Return how a method rounds weights ``[outputs, inputs]`` to a format.

    Raises:
        ConfigError: the format has no groups along the inputs, or the weights hold NaN or infinity.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError(f"{where}: weights hold NaN or infinity; finite values are needed")
    groups, field = _family(fmt, where)
    params = QuantParams() if isinstance(fmt, Int) else fmt.calibrate(weight, -1)  # integers are fitted where asked
    return groups(fmt, params, weight.shape[1], getattr(fmt, field))


def chunked(x: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of ``x [rows, columns]`` as ``[rows, groups, size]``, padded by zeros, a cacheful at a time."""
    rows, columns = x.shape
    groups = -(-columns // size)
    step = max(1, CHUNK // (groups * size))
    for start in range(0, rows, step):
        part = x[start : start + step]
        if groups * size != columns:
            part = torch.nn.functional.pad(part, (0, groups * size - columns))
        yield slice(start, start + step), part.reshape(len(part), groups, size)


def searched(groups: Groups, x: Tensor, importance: Tensor | None, every: bool = False) -> Steps:
    """Return steps with the least ``sum_j importance_j (y_j - x_j)^2`` of each group, over scaled steps of the format.

    Integers in the full range try 1 / step = -(n - d) / w with w the weight of greatest magnitude and n = 2**(bits-1):
    d = 0.01 k, |k| <= 90, of two bits, else 0.0075 n k, |k| <= 100, every second k.
    Powers of two try half and double; other formats try 0.50 to 1.51 of their step.

    Args:
        every: try every k.

    Source: W. Cheng et al., SignRoundV2, 2025, the pre-tuning scale search.
    """
    weights = torch.ones(x.shape[1]) if importance is None else importance.to(torch.float32)
    if isinstance(groups, IntGroups) and groups.fmt.full:
        return Steps(groups.snap(_full_range(groups, x, weights, 1 if every else 2)))
    if isinstance(groups, IntGroups) and groups.fmt.zero != "none":
        return _best_of(groups, x, weights, [1.0 - 0.01 * k for k in range(51)])
    if isinstance(groups, PowerGroups):
        return _best_of(groups, x, weights, [1.0, 0.5, 2.0])
    return _best_of(groups, x, weights, [1.0, *(0.5 + 0.01 * k for k in range(102))])


def _full_range(groups: IntGroups, x: Tensor, weights: Tensor, hop: int) -> Tensor:
    """Return signed steps, float32 ``[outputs, groups]``, of the best candidate.

    A step refitted by least squares on its codes errs less in the weights, and more in what the layer gives: it is
    smaller in every group, and errors that point one way add up.
    """
    n, found = -groups.low, torch.empty(len(x), groups.count)
    shifts = [0.01 * k for k in range(-90, 91, hop)] if n == 2 else [0.0075 * n * k for k in range(-100, 101, hop)]
    spread = torch.nn.functional.pad(weights, (0, groups.count * groups.size - len(weights)))
    spread = spread.reshape(1, groups.count, groups.size)
    for rows, w in chunked(x.to(torch.float32), groups.size):
        found[rows] = _scan(w, spread, shifts, n)
    return found


def _scan(w: Tensor, weights: Tensor, shifts: Sequence[float], n: int) -> Tensor:
    """Return the step of the candidate of the least error, ``[rows, groups]``."""
    top = w.gather(-1, w.abs().argmax(-1, keepdim=True))
    top = torch.where(top.abs() < 1e-20, torch.full_like(top, 1e-20), top)
    best, gain = top / -n, torch.full_like(top, -torch.inf)
    q, weighted, wx = torch.empty_like(w), torch.empty_like(w), w * weights
    for d in shifts:
        step = top / (d - n)
        torch.mul(w, 1 / step, out=q).round_().clamp_(-n, n - 1)
        cross = torch.linalg.vecdot(q, wx).unsqueeze(-1)
        square = torch.linalg.vecdot(q, torch.mul(q, weights, out=weighted)).unsqueeze(-1)
        own = step * (2 * cross - step * square)  # what the candidate takes away of the error of zeros
        better = own > gain
        gain, best = torch.where(better, own, gain), torch.where(better, step, best)
    return best.squeeze(-1)


def _best_of(groups: Groups, x: Tensor, weights: Tensor, factors: Sequence[float]) -> Steps:
    """Return, for each group, the step times the factor of the least weighted error."""
    start, best, least = groups.fit(x), None, torch.empty(0)
    spread = weights.to(torch.float64)
    for factor in factors:
        step = groups.snap(start.step * factor)
        steps = replace(start, step=step)
        if isinstance(groups, IntGroups) and groups.fmt.zero == "int" and start.zero is not None:
            low = -start.zero * start.step * factor
            steps = replace(steps, zero=(-(low / step).round()).clamp(groups.low, groups.high).to(torch.int64))
        piece = groups.nearest(x, steps)
        error = (piece.format.decode(piece.code, piece.params) - x).square() * spread
        error = group_sums(error, groups.size)
        if best is None:
            best, least = steps, error
            continue
        better = error < least
        least = torch.where(better, error, least)
        zero = best.zero if best.zero is None or steps.zero is None else torch.where(better, steps.zero, best.zero)
        best = Steps(torch.where(better, steps.step, best.step), zero, best.offset)
    assert best is not None
    return best


def group_sums(x: Tensor, size: int) -> Tensor:
    """Return the sums over the groups of a row, the last one short or not."""
    rows, columns = x.shape
    padded = torch.nn.functional.pad(x, (0, -columns % size))
    return padded.reshape(rows, -1, size).sum(-1)
