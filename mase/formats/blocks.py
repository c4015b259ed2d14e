"""Blocks of elements that share an exponent: where they lie, how their exponent is chosen, fast and exact rounding."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mase.errors import FormatError
from mase.formats.base import (
    Code,
    Format,
    Kernel,
    Pieces,
    QuantParams,
    Words,
    checked,
    floor_log2,
    one_of,
    pow2,
    within,
)
from mase.formats.chunks import Scratch, chunks
from mase.formats.grid import off_chip
from mase.formats.rounding import MODES

Rule = Literal["floor", "ceil", "rceil", "even"]
RULES: tuple[Rule, ...] = ("floor", "ceil", "rceil", "even")
OCP_BASE = -127  # least exponent of E8M0
TOP_EXPONENT = 1023  # of float64
NAN_EXPONENT = 128  # true exponent that stands for E8M0's NaN code, 255
MAX_BLOCK = 65536
FIELD = 0x7F800000  # exponent field of a float32; also the bits of infinity


@dataclass(frozen=True)
class Tiling:
    """Say where blocks lie: ``block[i]`` elements along ``axes[i]``, the last of each axis padded with zeros."""

    axes: tuple[int, ...]
    block: tuple[int, ...]

    @classmethod
    def of(cls, ndim: int, block: tuple[int, ...], params: QuantParams, what: str) -> Tiling:
        """Resolve the axes that parameters name for a tensor of ``ndim`` axes (a 0-d tensor counts as one axis).

        Raises:
            FormatError: the tensor has too few axes, or the axes do not fit.
        """
        ndim = max(ndim, 1)
        last = params.axis + ndim if params.axis < 0 else params.axis
        axes = params.axes if params.axes is not None else tuple(range(last - len(block) + 1, last + 1))
        axes = tuple(a + ndim if a < 0 and params.axes is not None else a for a in axes)
        if len(axes) != len(block) or len(set(axes)) < len(axes) or not all(0 <= a < ndim for a in axes):
            tile = "x".join(map(str, block))
            named = params.axes if params.axes is not None else f"ending at {params.axis}"
            raise FormatError(
                f"{what}: block {tile} on axes {named} of a tensor with {ndim}; {len(block)} of them are needed"
            )
        return cls(axes, block)

    def split(self, x: Tensor) -> Tensor:
        """Return ``[..., counts, prod(block)]``: counts of blocks a blocked axis, then the elements of one block."""
        x = self._blocked_last(x)
        need = [(-size) % b for size, b in zip(x.shape[-len(self.block) :], self.block, strict=True)]
        x = pad(x, [amount for n in reversed(need) for amount in (0, n)])
        return self._tiles(x).flatten(-len(self.block))

    def join(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what ``split`` made of a tensor of this shape, padding dropped."""
        k = len(self.block)
        tiles = blocks.reshape(*blocks.shape[:-1], *self.block)
        lead = tiles.ndim - 2 * k
        order = [*range(lead), *(lead + d for pair in zip(range(k), range(k, 2 * k), strict=True) for d in pair)]
        x = tiles.permute(order)
        for i in range(k):
            x = x.flatten(lead + i, lead + i + 1)
        for i, size in enumerate(self._blocked_sizes(shape)):
            x = x.narrow(lead + i, 0, size)
        return x.movedim(tuple(range(-k, 0)), self.axes).reshape(tuple(shape))

    def regions(self, x: Tensor) -> Iterator[Tensor]:
        """Yield views that cover ``x``, shaped ``[..., counts, block]`` with every block whole or cut at the edge."""
        x = self._blocked_last(x)
        cuts = []
        for size, b in zip(x.shape[-len(self.block) :], self.block, strict=True):
            whole = size // b * b
            cuts.append([(start, stop) for start, stop in ((0, whole), (whole, size)) if start < stop])
        for region in itertools.product(*cuts):
            part = x
            for i, (start, stop) in enumerate(region):
                part = part.narrow(i - len(region), start, stop - start)
            sizes = [min(b, stop - start) for b, (start, stop) in zip(self.block, region, strict=True)]
            yield Tiling(self.axes, tuple(sizes))._tiles(part)

    def shared_last(self, shared: Tensor) -> Tensor:
        """Move the axes that count blocks to the end, where ``split`` has them."""
        return self._blocked_last(shared)

    def shared_back(self, shared: Tensor, ndim: int) -> Tensor:
        """Undo ``shared_last`` for a tensor of ``ndim`` axes."""
        back = shared.movedim(tuple(range(-len(self.axes), 0)), self.axes)
        return back if ndim else back.reshape(())

    def count(self, shape: Sequence[int]) -> int:
        """Return how many blocks a tensor of this shape has."""
        sizes = list(shape) or [1]
        for axis, b in zip(self.axes, self.block, strict=True):
            sizes[axis] = -(-sizes[axis] // b)
        return math.prod(sizes)

    def _blocked_last(self, x: Tensor) -> Tensor:
        x = x.reshape(1) if x.ndim == 0 else x
        return x.movedim(self.axes, tuple(range(-len(self.axes), 0)))

    def _blocked_sizes(self, shape: Sequence[int]) -> list[int]:
        return [shape[a] for a in self.axes] if shape else [1]

    def _tiles(self, x: Tensor) -> Tensor:
        k = len(self.block)
        lead = x.ndim - k
        for i, b in enumerate(self.block):
            d = lead + 2 * i
            x = x.view(*x.shape[:d], x.shape[d] // b, b, *x.shape[d + 1 :])
        return x.permute([*range(lead), *(lead + 2 * i for i in range(k)), *(lead + 2 * i + 1 for i in range(k))])


class BlockFormat(Format):
    """Elements that share one power-of-two scale a block: value = element * 2**(exponent - offset).

    The exponent follows the greatest magnitude M of the block: floor(log2 M), one more where M's significand reaches
    ``_threshold``, less ``_lift``; then it is clamped into the window. A subclass is a frozen dataclass with the fields
    below and says what an element is.
    """

    block: int
    outer: tuple[int, ...]
    exp_bits: int
    rounding: str
    compat: str

    @property
    @abstractmethod
    def offset(self) -> int:
        """Return what the exponent is lowered by to weigh an element."""

    @abstractmethod
    def _put(self, v: Tensor, seed: int) -> Tensor:
        """Return element codes, int64, of scaled float64 values (may overwrite them)."""

    @abstractmethod
    def _get(self, codes: Tensor) -> Tensor:
        """Return the float64 values of element codes."""

    @abstractmethod
    def _bounds(self) -> tuple[float, float]:
        """Return the least and the greatest element."""

    def _rounder(self) -> Callable[[Tensor, Scratch], None] | None:
        """Return what rounds contiguous float32 elements in place, or None; buffer 2 and above are free for it."""
        return None

    @property
    def _lift(self) -> int:
        """Return what the exponent lies below that of the block's maximum."""
        return 0

    @property
    def _threshold(self) -> float:
        """Return the significand of the maximum from which the exponent is one more; 2 is never."""
        return 2.0

    @property
    def tile(self) -> tuple[int, ...]:
        """Return the extents of a block."""
        return (*self.outer, self.block)

    @property
    def span(self) -> int:
        """Return the greatest exponent less the least; of 8 bits one code is NaN."""
        return (1 << self.exp_bits) - 1 - (self.exp_bits == 8)

    def base(self, params: QuantParams) -> int:
        """Return the least exponent of the window."""
        return OCP_BASE if params.base is None else int(params.base)

    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        if self.exp_bits == 8:
            return QuantParams(base=torch.tensor(OCP_BASE), axis=axis)
        top = greatest(x, self).reshape(1)
        exponent = min(int(self._exponent(top.unsqueeze(0))), TOP_EXPONENT) if bool(top > 0) else 0
        return QuantParams(base=torch.tensor(max(OCP_BASE, exponent - self.span)), axis=axis)

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        tiling = Tiling.of(x.ndim, self.tile, params, str(self))
        codes, exponent = self._to_codes(tiling.split(checked(x, self, self._nan)), params)
        return Code(tiling.join(codes, x.shape), tiling.shared_back(exponent, x.ndim))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        if code.exponent is None:
            raise FormatError(f"{self}: the code holds no exponents; decode needs one for each block")
        ndim = code.mantissa.ndim
        tiling = Tiling.of(ndim, self.tile, params if params is not None else QuantParams(), str(self))
        values = self._from_codes(tiling.split(code.mantissa), tiling.shared_last(code.exponent))
        return tiling.join(values, code.mantissa.shape)

    def _emulate(self, x: Tensor, params: QuantParams) -> Tensor | None:
        if self.compat != "mase":
            return None
        tiling = Tiling.of(x.ndim, self.tile, params, str(self))
        found = self._published(tiling.split(checked(x, self).to(torch.float32)))
        return None if found is None else tiling.join(found, x.shape)

    def _published(self, blocks: Tensor) -> Tensor | None:
        """Return float32 blocks as MASE gives them; None where it has no such format."""
        return None

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        tiling = Tiling.of(x.ndim, self.tile, params, str(self))
        blocks = tiling.split(checked(x, self, self._nan))
        unit = pow2(self._clamped(blocks, params) - self.offset).unsqueeze(-1).expand_as(blocks)
        low, high = (tiling.join(unit * bound, x.shape) for bound in self._bounds())
        return low, high

    def bits(self, shape: Sequence[int], axis: int = -1) -> float:
        element = sum(width for _, width in self.layout().element)
        tiling = Tiling.of(len(shape), self.tile, QuantParams(axis=axis), str(self))
        return element + self.exp_bits * tiling.count(shape) / max(1, math.prod(shape))

    def values(self) -> Tensor:
        low, high = self.code_range()
        return self._get(torch.arange(low, high + 1))

    def _check_on_chip(self, where: str) -> None:
        """Raise UnsupportedOp unless hardware has the fields that all block formats have."""
        if self.outer:
            raise off_chip(self, where, "has blocks over several axes; hardware takes blocks along one axis")
        if self._nan != "error":
            raise off_chip(self, where, "encodes NaN; none travels on chip")
        if self.compat:
            raise off_chip(self, where, f"follows {self.compat}; hardware follows the specification")

    def _exponent(self, blocks: Tensor) -> Tensor:
        """Return the exponents that float64 ``[..., block]`` ask for, before the window; zero blocks ask for least."""
        top = blocks.abs().amax(-1)
        bump = int((2.0 - self._threshold) * 2.0**52)
        return floor_log2((top.view(torch.int64) + bump).view(torch.float64)) - self._lift

    def _scaled(self, blocks: Tensor, exponent: Tensor) -> Tensor:
        """Return float64 blocks in units of an element."""
        return blocks * pow2(self.offset - exponent).unsqueeze(-1)

    def _clamped(self, blocks: Tensor, params: QuantParams) -> Tensor:
        base = torch.tensor(OCP_BASE) if params.base is None else params.base
        base = base.to(blocks.device)  # compared as a tensor, so that compiled code serves all windows
        return torch.minimum(torch.maximum(self._exponent(blocks), base), base + self.span)

    def _to_codes(self, blocks: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        if self._nan == "encode":
            lost = ~torch.isfinite(blocks).all(-1)
            blocks = torch.where(lost.unsqueeze(-1), 0.0, blocks)
        exponent = self._clamped(blocks, params)
        codes = self._put(self._scaled(blocks, exponent), params.seed)
        return codes, exponent.masked_fill_(lost, NAN_EXPONENT) if self._nan == "encode" else exponent

    def _from_codes(self, codes: Tensor, exponent: Tensor) -> Tensor:
        values = self._get(codes) * pow2(exponent - self.offset).unsqueeze(-1)
        if self._nan == "encode":
            values.masked_fill_((exponent == NAN_EXPONENT).unsqueeze(-1), torch.nan)
        return values

    def _pieces(self, x: Tensor, y: Tensor, params: QuantParams, limit: int) -> Pieces:
        for source, target in block_pieces(x, y, Tiling.of(x.ndim, self.tile, params, str(self)), limit):
            yield source, target, params

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        blocks = x.flatten(-len(self.tile))
        return self._from_codes(*self._to_codes(blocks, params)).view(x.shape)

    def _kernel(self, params: QuantParams) -> Kernel | None:
        base, rounder = self.base(params), self._rounder()
        if rounder is None or not OCP_BASE <= base <= NAN_EXPONENT - self.span:
            return None  # the second: a window beyond float32
        bump = (1 << 23) - math.ceil((self._threshold - 1.0) * 2.0**23)
        lowest, highest = base + 127 + self._lift << 23, base + self.span + 127 + self._lift << 23
        down, dims = self._lift + self.offset << 23, len(self.tile)
        above = math.frexp(max(abs(bound) for bound in self._bounds()))[1]  # elements lie below 2**above
        limit = min(253, 127 + 128 - above) << 23  # of a step: its inverse, and all multiples, are float32

        def steps(top: Tensor) -> Tensor | None:
            """Return the float32 bits of 2**(exponent - offset) from those of maxima, or None: beyond float32."""
            power = (top.clamp(max=FIELD).add_(bump) if bump else top).bitwise_and(FIELD)  # NaN must not carry around
            least, most = (int(bound) for bound in torch.aminmax(power))
            if most >= FIELD or min(max(most, lowest), highest) - down > limit:
                return None
            power.clamp_(lowest, min(highest, FIELD)).sub_(down)
            if max(least, lowest) - down < 1 << 23:
                if bool(((power < 1 << 23) & (top > 0)).any()):
                    return None
                power.clamp_(min=1 << 23)  # a zero block may take any exponent here
            return power

        def kernel(x: Tensor, out: Tensor, scratch: Scratch) -> bool:
            x, out = x.flatten(-dims), out.flatten(-dims)
            magnitude = torch.abs(x, out=out)
            power = steps(magnitude.view(torch.int32).amax(-1, keepdim=True))
            if power is None:
                return False
            torch.mul(x, torch.rsub(power, 254 << 23).view(torch.float32), out=out)
            rounder(out, scratch)
            out.mul_(power.view(torch.float32))
            return True

        return kernel


def block_pieces(x: Tensor, y: Tensor, tiling: Tiling, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield matching views of two tensors, shaped ``[..., block]``, of at most ``limit`` elements; no block is cut."""
    k = len(tiling.block)
    for source, target in zip(tiling.regions(x), tiling.regions(y), strict=True):
        if source.is_contiguous() and target.is_contiguous():
            source, target = source.flatten(0, -k - 1), target.flatten(0, -k - 1)
        for pair in chunks((source, target), limit, whole=k):
            yield pair[0], pair[1]


def greatest(x: Tensor, fmt: Format) -> Tensor:
    """Return the greatest finite magnitude of ``x``, float64, 0-d; 0 of an empty tensor."""
    if not x.is_floating_point() or x.numel() == 0:
        return checked(x, fmt).sum()
    low, high = (bound.to(torch.float64) for bound in torch.aminmax(x))
    checked(high, fmt)  # NaN shows in either bound
    top = torch.maximum(-low, high)
    if bool(torch.isinf(top)):
        finite = x[torch.isfinite(x)]
        return greatest(finite, fmt)
    return top


def check_block(what: str, block: int, outer: tuple[int, ...], exp_bits: int, rounding: str) -> None:
    """Raise FormatError unless the fields that all block formats have are possible."""
    within(what, "block", block, 1, MAX_BLOCK)
    for extent in outer:
        within(what, "outer", extent, 1, MAX_BLOCK)
    within(what, "exp_bits", exp_bits, 1, 8)
    one_of(what, "rounding", rounding, MODES)


RULE_WORDS: Words = {f"x{rule}": ("rule", rule) for rule in RULES}  # x: of the exponent, not of elements


def threshold(rule: str, top: float, man: int) -> float:
    """Return the significand, in (1, 2], of a block's maximum from which a rule makes the exponent one more.

    Args:
        rule: one of ``RULES``.
        top: the greatest element.
        man: mantissa bits of an element.
    """
    if rule == "floor":
        return 2.0
    if rule == "even":  # from here the maximum, rounded to ``man`` bits, carries
        return 2.0 - 2.0 ** -(man + 1)
    return math.nextafter(1.0 if rule == "ceil" else 2 * math.frexp(top)[0], 2.0)


TILE = r"(\d+(?:x\d+)*)"  # block extents in a text form, the innermost last


def read_tile(text: str | None, default: int) -> Mapping[str, tuple[int, ...] | int]:
    """Return the fields ``block`` and ``outer`` of a tile such as ``32`` or ``4x4``."""
    *outer, block = [int(extent) for extent in text.split("x")] if text else [default]
    return {"block": block, "outer": tuple(outer)}


def tile_text(tile: tuple[int, ...], default: int) -> str:
    """Return ``b`` and the extents, or nothing for the default block."""
    return "" if tile == (default,) else "b" + "x".join(map(str, tile))


def sharing(tile: tuple[int, ...]) -> str:
    """Return who shares a block's exponent, in words."""
    return "block of " + "x".join(map(str, tile))
