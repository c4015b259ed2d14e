"""Integers with a real scale: value = scale * (code - zero_point) + offset."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats import compat
from mase.formats.base import (
    FORMATS,
    ROUNDING_WORDS,
    Code,
    Compat,
    Constants,
    Kernel,
    Layout,
    Packed,
    QuantParams,
    Words,
    compat_words,
    floor_log2,
    one_of,
    text_form,
    within,
)
from mase.formats.blocks import MAX_BLOCK, Tiling
from mase.formats.chunks import Scratch
from mase.formats.fixed import saturating
from mase.formats.grid import Grid, off_chip, signed_width
from mase.formats.rounding import MODES, Rounding, rounded
from mase.formats.scaled import Per, ScaledFormat
from mase.formats.scales import SCALE_BITS, SCALE_TYPES, ScaleType, round_scale
from mase.formats.whole import whole

ZERO = torch.zeros(())
ROW = 1024  # elements that are rounded again together
GROUP_BITS = 11  # of a group's scale on chip

Zero = Literal["none", "int", "real"]
ZERO_LETTERS: Mapping[str, Zero] = {"": "none", "a": "int", "r": "real"}


@FORMATS.add("int")
@dataclass(frozen=True)
class Int(ScaledFormat):
    """Integers with one real scale a tensor, channel or group; symmetric unless ``zero`` says otherwise.

    Codes are -(2**(width-1) - 1) .. 2**(width-1) - 1; with ``full`` one more below, and the scale takes the sign that
    puts the element of greatest magnitude there; with a zero point or an offset 0 .. 2**width - 1.

    Args:
        width: stored bits, 2..16; with ``full`` or a real offset 1 too: a number or 0, or two numbers.
        channel: one scale for each index of the channel axis (text suffix ``c``), else one for the tensor.
        power: scales are powers of two (text suffix ``p``), the least that does not clip; the same as scale type e8m0.
        group: elements along the axis that share a scale (text ``g128``), the last one may be short; 0: no groups.
        zero: ``none``; ``int``, an integer zero point, so that zero is exact (text suffix ``a``); ``real``, a real
            offset, so that the least value is exact (text suffix ``r``).
        full: use the most negative code too (text suffix ``f``).
        scale_type: what scales and offsets are stored as; calibrated ones are rounded to it, scales never to zero.
            ``short`` is fp32 with 15 significand bits, so that values and ties are exact in float32 up to 8 bits.
        rounding: of x / scale.
        compat: reproduce a published tool: ``torchao`` (times the reciprocal in float32, least scale 2**-23; without a
            zero point its ``symmetric`` mapping, with ``full`` the one without clipping), ``qera`` (zero point added
            before rounding; calibrate on the range), ``brevitas`` (least threshold 1e-10; powers of two cover
            2**(width-1) steps).
    """

    width: int = 8
    channel: bool = False
    power: bool = False
    group: int = 0
    zero: Zero = "none"
    full: bool = False
    scale_type: ScaleType = "short"
    rounding: Rounding = "even"
    compat: Compat = ""
    ebnf: ClassVar[str] = '"int" nat ["c" | "g" nat] ["p"] ["a" | "r"] ["f"]'
    grammar: ClassVar[re.Pattern[str]] = text_form(r"int(\d+)(c|g\d+)?(p?)([ar]?)(f?)")
    words: ClassVar[Words] = {
        **ROUNDING_WORDS,
        **{kind: ("scale_type", kind) for kind in SCALE_TYPES if kind not in ("short", "e8m0")},
        **compat_words("torchao", "qera", "brevitas"),
    }

    def __post_init__(self) -> None:
        within("int", "width", self.width, 1 if self.full or self.zero == "real" else 2, 16)
        within("int", "group", self.group, 0, MAX_BLOCK)
        one_of("int", "zero", self.zero, tuple(ZERO_LETTERS.values()))
        one_of("int", "scale_type", self.scale_type, SCALE_TYPES)
        one_of("int", "rounding", self.rounding, MODES)
        one_of("int", "compat", self.compat, ("", "torchao", "qera", "brevitas"))
        if self.channel and self.group:
            raise FormatError(f"int: channel is True and group is {self.group}; allowed is one of them")
        if self.full and self.zero != "none":
            raise FormatError(
                f"int: full is True and zero is {self.zero!r}; all codes are used then, so zero must be False"
            )
        if self.power and self.scale_type not in ("short", "e8m0"):
            raise FormatError(f"int: power is True and scale_type is {self.scale_type!r}; allowed is 'e8m0'")
        power = self.power or self.scale_type == "e8m0"  # two names of one thing: equal formats compare equal
        object.__setattr__(self, "power", power)
        object.__setattr__(self, "scale_type", "e8m0" if power else self.scale_type)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        per = match[2] or ""
        group = int(per[1:]) if per.startswith("g") else 0
        if per.startswith("g"):
            within("int", "group", group, 1, MAX_BLOCK)
        zero = ZERO_LETTERS[match[4]]
        return cls(int(match[1]), per == "c", match[3] == "p", group, zero, match[5] == "f", **cls._options(match))

    def __str__(self) -> str:
        per = "c" if self.channel else f"g{self.group}" if self.group else ""
        letter = next(letter for letter, zero in ZERO_LETTERS.items() if zero == self.zero)
        return f"int{self.width}{per}{'p' * self.power}{letter}{'f' * self.full}{self._suffix()}"

    def code_range(self) -> tuple[int, int]:
        if self.zero != "none" and self.compat != "qera":
            return 0, (1 << self.width) - 1
        all_codes = self.full or self.compat in ("torchao", "qera")
        return -(1 << self.width - 1) + (not all_codes), (1 << self.width - 1) - 1

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        return replace(self._choose(*self._extremes(x, axis)), axis=axis)

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        sizes = list(shape) or [1]
        count = sizes[axis] if self.channel else 1
        if self.group:
            count = Tiling.of(len(sizes), (self.group,), QuantParams(axis=axis), str(self)).count(sizes)
        return self.width + sum(bits for _, bits in self.layout().shared) * count / max(1, math.prod(sizes))

    def layout(self) -> Layout:
        stored = SCALE_BITS[self.scale_type] + (self.power and self.full)  # the sign is not part of a power of two
        shared = {
            "none": (),
            "int": (("zero point", self.width),),
            "real": (("offset", SCALE_BITS[self._offset_type]),),
        }
        sharing = f"group of {self.group}" if self.group else "channel" if self.channel else "tensor"
        return Layout((("code", self.width),), (("scale", stored), *shared[self.zero]), sharing)

    def values(self) -> Tensor:
        low, high = self.code_range()
        return torch.arange(low, high + 1, dtype=torch.float64)

    def sv_params(self) -> Mapping[str, int]:
        return {"Width": self.width, "Signed": int(self.zero == "none")}

    def grid(self, params: QuantParams, where: str) -> Grid:
        if self.group:
            raise off_chip(self, where, "has a scale for each of several groups; on chip only weights may have these")
        scale, zeros = self._on_chip(params, where)
        if not bool((scale > 0).all()):
            raise off_chip(self, where, "has a scale below 0; on chip only weights may have one")
        if self.channel and self.zero == "int":
            raise off_chip(self, where, "has a zero point a channel; on chip only weights may have these")
        codes = self.width, self.zero == "none", *self.code_range()
        unit = int(floor_log2(scale.double())) if self.power and not self.channel else 0
        return Grid(*codes, unit=unit, scaled=not self.power or self.channel, zero=int(zeros.flatten()[0]))

    def weight_grid(self, params: QuantParams, where: str) -> Grid:
        scale, zeros = self._on_chip(params, where)
        low, high = (code - zeros for code in self.code_range())
        factor = torch.sign(scale).to(torch.int64)
        unit, scaled = 0, not self.power or self.channel
        block = exp_bits = base = span = 0
        if self.group and self.power:
            exponent = floor_log2(scale.abs().double())
            base, span = int(exponent.min()), int(exponent.max() - exponent.min())
            unit, scaled, block, exp_bits = base, False, self.group, max(1, span.bit_length())
        elif self.group:
            factor, fraction = _snapped(scale)
            unit, scaled = -fraction, False
        elif not scaled:
            unit = int(floor_log2(scale.abs().double()))
        ends = torch.stack([low * factor, high * factor])
        least, most = int(ends.min()), int(ends.max())
        return Grid(signed_width(least, most), True, least, most, unit, scaled, block, exp_bits, base, span)

    def constants(self, x: Tensor, params: QuantParams, where: str) -> Constants:
        grid, exponent = self.weight_grid(params, where), None
        scale, _ = self._on_chip(params, where)
        factor = torch.sign(scale).to(torch.int64)
        if self.group and self.power:
            exponent = floor_log2(scale.abs().double())
        elif self.group:
            factor, fraction = _snapped(scale)
            scale = factor.double() * 2.0**-fraction  # codes are those of this scale
        code = self.encode(x, replace(params, scale=scale)).mantissa
        if params.zero_point is not None:
            code = code - self._spread_one(params.zero_point, params.axis, x.shape)
        whole_codes = code * self._spread_one(factor, params.axis, x.shape)
        packed = self._packed(code, factor, params, x) if self.group and not self.power else None
        return Constants(grid, Code(whole_codes, exponent), scale.abs() if grid.scaled else None, packed)

    def _packed(self, code: Tensor, factor: Tensor, params: QuantParams, x: Tensor) -> Packed:
        """Return codes less their zero points, with the sign of their scale, and the snapped scales of groups."""
        signs = torch.sign(factor)
        low, high = (end * signs for end in self.code_range())
        if params.zero_point is not None:
            low, high = ((end - params.zero_point) * signs for end in self.code_range())
        least, most = int(torch.minimum(low, high).min()), int(torch.maximum(low, high).max())
        grid = Grid(signed_width(least, most), True, least, most)
        return Packed(grid, code * self._spread_one(signs, params.axis, x.shape), self.group, factor.abs(), GROUP_BITS)

    def _on_chip(self, params: QuantParams, where: str) -> tuple[Tensor, Tensor]:
        """Return scales and zero points, shaped alike; refuse what hardware does not have."""
        if self.zero == "real":
            raise off_chip(self, where, "has a real offset; hardware takes integer zero points")
        if params.scale is None:
            raise off_chip(self, where, "has no scale")
        zeros = torch.zeros((), dtype=torch.int64) if params.zero_point is None else params.zero_point
        return params.scale, zeros.expand_as(params.scale) if zeros.ndim == 0 else zeros

    @property
    def _offset_type(self) -> str:
        return "fp32" if self.scale_type in ("short", "e8m0") else self.scale_type  # an offset is not a power of two

    @property
    def _sharing(self) -> Per:
        return "channel" if self.channel else "tensor"

    def _ends(self) -> tuple[int, int]:
        return self.code_range()

    def _reduce(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        if not self.group:
            return super()._reduce(x, axis)
        tiling = Tiling.of(x.ndim, (self.group,), QuantParams(axis=axis), str(self))
        lows, highs = zip(*((part.amin(-1), part.amax(-1)) for part in tiling.regions(x)), strict=True)
        return torch.cat(lows, -1).movedim(-1, axis), torch.cat(highs, -1).movedim(-1, axis)

    def _choose(self, low: Tensor, high: Tensor) -> QuantParams:
        """Return the parameters for data from ``low`` to ``high``."""
        least, most = self.code_range()
        if self.zero == "none":
            return QuantParams(self._symmetric(low, high))
        if self.compat == "qera":
            return QuantParams(*compat.qera_affine(low, high, least, most))
        if self.zero == "real":
            offset = torch.where(low == 0, 0.0, round_scale(low, self._offset_type))
            return QuantParams(round_scale(_positive(high - offset) / most, self.scale_type), offset=offset)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if self.compat == "torchao":
            return QuantParams(*compat.torchao_affine(low, high, least, most))
        scale = round_scale(_positive(high - low) / most, self.scale_type)
        return QuantParams(scale, whole((-(low / scale).round()).clamp(least, most)))

    def _symmetric(self, low: Tensor, high: Tensor) -> Tensor:
        least, most = self.code_range()
        if self.compat == "torchao":
            return compat.torchao_symmetric(low, high, least, most, clips=not self.full)
        top = torch.maximum(-low, high)
        if self.compat == "brevitas":
            weight = -least + 1 if self.power else most
            return round_scale(top.clamp(min=compat.BREVITAS_LEAST) / weight, "e8m0" if self.power else "fp32")
        # the element of greatest magnitude gets the most negative code where there is one more of these
        signed = torch.where(-low >= high, -least, least) if self.full else torch.tensor(most)
        return round_scale(_positive(top) / signed, self.scale_type)

    def _spread_one(self, shared: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
        if not self.group:
            return super()._spread_one(shared, axis, shape)
        if not shape:
            return shared.reshape(())
        return shared.repeat_interleave(self.group, axis).narrow(axis, 0, shape[axis])

    def _parts(self, x: Tensor, y: Tensor, params: QuantParams) -> Iterator[tuple[Tensor, ...]]:
        if not self.group:
            yield from super()._parts(x, y, params)
            return
        tiling, start = Tiling.of(x.ndim, (self.group,), params, str(self)), 0
        shared = [
            tiling.shared_last(s.to(x.device))
            for s in (params.scale, params.zero_point, params.offset)
            if s is not None
        ]
        for source, target in zip(tiling.regions(x), tiling.regions(y), strict=True):
            groups = slice(start, start + source.shape[-2])
            yield source, target, *(s[..., groups].unsqueeze(-1) for s in shared)
            start = groups.stop

    def _codes(self, x: Tensor, spread: QuantParams) -> Tensor:
        assert spread.scale is not None
        x = x if spread.offset is None else x - spread.offset
        if self.compat == "torchao":
            quotient = compat.torchao_quotient(x, spread.scale)
        elif self.compat == "qera" and spread.zero_point is not None:
            quotient = x.to(torch.float32) / spread.scale.to(torch.float32) + spread.zero_point
            return whole(rounded(quotient.to(torch.float64), self.rounding).clamp_(*self.code_range()))
        else:
            quotient = x / spread.scale
        code = rounded(quotient, self.rounding, spread.seed)
        code = code if spread.zero_point is None else code + spread.zero_point
        return whole(code.clamp_(*self.code_range()))

    def _reals(self, codes: Tensor, spread: QuantParams) -> Tensor:
        assert spread.scale is not None
        codes = codes if spread.zero_point is None else codes - spread.zero_point
        values = codes.to(torch.float64) * spread.scale
        return values + (0.0 if spread.offset is None else spread.offset)  # -0 + 0 is +0

    def _kernel(self, params: QuantParams) -> Kernel | None:
        """Divide in float32, which rounds once: only a quotient exactly on a tie may have come from beside it."""
        assert params.scale is not None
        scale, zero = params.scale.to(torch.float32), params.zero_point
        size = scale.abs()
        if self.rounding != "even" or self.zero == "real" or self.compat in ("torchao", "qera"):
            return None
        if not bool((scale == params.scale).all()):
            return None
        if not bool(((size > 2.0**-100) & (size < 2.0**100)).all()):
            return None
        if self.power and scale.ndim == 0 and zero is None:
            return saturating(*self.code_range(), float(scale))
        tie_free = self._tie_free(scale)
        bounds = [code if zero is None else (code - zero).to(torch.float32) for code in self.code_range()]

        def kernel(x: Tensor, out: Tensor, scratch: Scratch) -> bool:
            quotient = out if tie_free else scratch.take(2, x.shape)
            torch.round(torch.div(x, scale, out=quotient), out=out)
            ties = None if tie_free else _rows_with_ties(quotient.sub_(out))
            _clamp(out, *bounds)
            if scale.ndim == 0:
                torch.add(ZERO, out, alpha=float(scale), out=out)  # not mul: -0 + 0 is +0
            else:
                out.mul_(scale).add_(0.0)
            return not bool(torch.isnan(out.sum())) if ties is None else self._mend(x, out, params, ties)

        return kernel

    def _mend(self, x: Tensor, out: Tensor, params: QuantParams, ties: Tensor) -> bool:
        """Round the rows that hold ties exactly; return False when one holds NaN."""
        if ties.numel() == 0:
            return True
        whole, out = x, _rows(out)
        part = _rows(x)[ties]
        if bool(torch.isnan(part).any()):
            return False
        scale, zero = (
            shared if shared is None or shared.ndim == 0 else _rows(shared.expand_as(whole))[ties]
            for shared in (params.scale, params.zero_point)
        )
        out[ties] = self._exact(part.to(torch.float64), replace(params, scale=scale, zero_point=zero)).to(torch.float32)
        return True

    def _tie_free(self, scale: Tensor) -> bool:
        """Tell whether every tie, an odd multiple of scale / 2, is a float32: then no other quotient rounds onto it."""
        return not bool((scale.view(torch.int32) & (1 << self.width + 1) - 1).any())


def _snapped(scale: Tensor) -> tuple[Tensor, int]:
    """Return ``(m, k)`` with m integers of up to 11 bits, a sign aside, and scale ~ m * 2**-k, one k for all."""
    k = GROUP_BITS - math.frexp(float(scale.abs().max()))[1]
    k -= bool((torch.ldexp(scale.abs().double(), torch.tensor(k)).round() >= 1 << GROUP_BITS).any())
    m = whole(torch.ldexp(scale.abs().double(), torch.tensor(k)).round().clamp(min=1.0))
    return torch.where(scale < 0, -m, m), k


def _rows(x: Tensor) -> Tensor:
    """Return a matrix with the rows of ``x``; a vector is cut into some where that is even."""
    if x.ndim > 1:
        return x.flatten(0, -2)
    return x.view(-1, ROW if x.numel() % ROW == 0 else max(1, x.numel()))


def _rows_with_ties(rest: Tensor) -> Tensor:
    """Return the indices of rows where what rounding took away is not below a half; NaN is not."""
    return (~(_rows(rest.abs_()).amax(-1) < 0.5)).nonzero().flatten()


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)


def _clamp(x: Tensor, low: Tensor | int, high: Tensor | int) -> None:
    if isinstance(low, int) and isinstance(high, int):
        x.clamp_(low, high)
    elif isinstance(low, Tensor) and isinstance(high, Tensor):
        torch.minimum(torch.maximum(x, low, out=x), high, out=x)
