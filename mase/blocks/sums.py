"""Sums of products on integers: exact or aligned accumulation of rows times weights, and one rounding.

What the linear unit computes (:mod:`mase.blocks.linear`), apart from its lanes. Arithmetic: docs/arithmetic.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from mase.blocks.output import Output
from mase.blocks.product import Product
from mase.dataflow.grid import activation_grid, produced_grid, stream_grid
from mase.dataflow.rounding import FLOAT_SAFE, carrier
from mase.errors import UnsupportedOp
from mase.formats import Code, Format, QuantParams
from mase.formats.base import Packed, pow2
from mase.formats.grid import Grid, signed_width
from mase.formats.kept import kept
from mase.formats.whole import whole

EXACT_LIMIT = 48  # bits of an exact accumulator over block exponents (docs/arithmetic.md, 5)
AUTO_GUARD = 8  # guard bits that accumulation "auto" falls back to
REFUSE = 62  # bits of any accumulator
BIAS_BITS = 8  # significant bits that a bias keeps in aligned sums, however small the products are
Formatted = tuple[Format, QuantParams]
CHUNK = 1 << 15  # sums of aligned accumulation at a time: they stay in cache


@dataclass(frozen=True)
class Accumulation:
    """Say how products with block exponents are summed: ``exact``, or ``aligned(G)`` with G guard bits.

    Args:
        guard: None for exact.
    """

    guard: int | None = None

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read ``exact`` or ``aligned(G)``, G in 0..32."""
        match = re.fullmatch(r"aligned\(([0-9]{1,9})\)", text)
        if text == "exact":
            return cls()
        if match and int(match[1]) <= 32:
            return cls(int(match[1]))
        raise UnsupportedOp(f"{where}: accumulation {text[:40]!r}; allowed: exact, or aligned(G) with G in 0..32")


def one_part(x: Tensor) -> Tensor:
    """Return a matrix of weights as rows of one part."""
    return x.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Sums:
    """y[row, o] = round(m[o] * (b[o] + sum over k of x[row, k] * w[o, k])), with an optional ReLU before the rounding.

    A row is ``taps`` parts of ``cols`` elements: one part for a linear layer, the pixels of a window for a convolution.
    Beats and blocks never span two parts.

    Args:
        name: for errors.
        rows: rows of one sample. taps, cols, outputs: sizes of a row and of its result.
        sets: the outputs in so many equal parts, each of which has inputs of its own.
        x, w: grids of the operands; ``w.base`` is the least exponent that occurs and ``w.span`` their spread.
        zero: zero point of x, which is part of the bias: ``x`` itself has none. low: least mantissa of x that its
            producer can give.
        weight: mantissas ``[outputs, inputs]``. weight_exp: exponents ``[outputs, taps * blocks]``, or None.
        bias: integers ``[outputs]`` on the accumulator's unit (aligned: mantissas, with exponents ``bias_exp``).
        acc_width: bits of the accumulator. bound: greatest absolute value it can hold, every partial sum included.
        guard: None for exact accumulation. out: multiplier and rounding. packed: ``weight`` as memories hold it, where
            its blocks have factors: ``[outputs, inputs]`` and ``[outputs, taps * blocks]``.
    """

    name: str
    rows: int
    taps: int
    cols: int
    outputs: int
    sets: int
    x: Grid
    w: Grid
    zero: int
    low: int
    weight: Tensor
    weight_exp: Tensor | None
    bias: Tensor
    bias_exp: Tensor | None
    acc_width: int
    bound: int
    guard: int | None
    out: Output
    packed: Packed | None

    # -- from formats -----------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, *args: Any, attrs: Mapping[str, Any], **kwargs: Any) -> Self:  # those of _build
        """Build from formats with their parameters, and real weights; see :meth:`_build`.

        Accumulation ``auto`` is ``exact``, or ``aligned(8)`` where the exact accumulator of block formats is too wide.
        """
        if attrs.get("accumulation") != "auto":
            return cls._build(*args, attrs=attrs, **kwargs)
        try:
            return cls._build(*args, attrs={**attrs, "accumulation": "exact"}, **kwargs)
        except UnsupportedOp as refused:
            try:
                return cls._build(*args, attrs={**attrs, "accumulation": f"aligned({AUTO_GUARD})"}, **kwargs)
            except UnsupportedOp:
                raise refused from None

    @classmethod
    def _build(
        cls,
        name: str,
        where: str,
        rows: int,
        x_format: Formatted,
        w_format: Formatted,
        y_format: Formatted,
        weight: Tensor,
        bias: Tensor | None,
        *,
        attrs: Mapping[str, Any],
        positive: bool = False,
        parts: Callable[[Tensor], Tensor] = one_part,
        scattered: bool = False,
        whole_rows: bool = False,
        sets: int = 1,
        **own: Any,  # fields of the subclass
    ) -> Self:
        """Build for one way of accumulation.

        Args:
            where: for errors. positive: the producer of x gives no negative value.
            attrs: ``activation``, ``accumulation`` and ``rounding``, each optional.
            parts: turns what is shaped as the weight, or counts its blocks, into ``[outputs, taps, cols or blocks]``.
            whole_rows: every row holds all its elements, so that a zero point of x can be part of the bias.
            scattered: ``parts`` tears blocks apart, so that each weight keeps the exponent of its block for itself.
        """
        for what, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None and not kept(_finite, tensor):
                raise UnsupportedOp(f"{where}: the {what} holds infinity or NaN; allowed are finite numbers")
        x, y = activation_grid(*x_format, where), produced_grid(*y_format, where)
        facts = weight, *w_format, parts, scattered, where
        found = kept(_weights, *facts) if parts.__closure__ is None else _weights(*facts)  # a closure is new each time
        w, code, packed = found.grid, found.code, found.packed
        outputs, taps, cols = code.mantissa.shape
        scale = _product(x_format[1].scale if x.scaled else None, found.scale)
        real = torch.zeros(outputs) if bias is None else bias
        accumulation = Accumulation.parse(attrs.get("accumulation", "exact"), where)
        if accumulation.guard is not None and not (x.block or w.block):
            raise UnsupportedOp(f"{where}: accumulation aligned(G) is for block formats; allowed here: exact")
        if scattered or (accumulation.guard is not None and packed is not None and packed.block != w.block):
            packed = None  # its blocks are torn, or smaller than what is summed before it is aligned
        given, zero = stream_grid(*x_format, where), 0
        if whole_rows and accumulation.guard is None and given.pattern is None:
            x, zero = replace(given, zero=0), given.zero
        low = max(x.low, zero) if positive else x.low
        real = real.double() / (1.0 if scale is None else scale.double().reshape(-1))
        terms = _Terms(x, w, zero, low, found, real, accumulation.guard)
        start, start_exp, bound, width, unit = (
            terms.exact(where) if accumulation.guard is None else terms.aligned(where)
        )
        target = y_format[1].scale if y.scaled else None
        relu, mode = attrs.get("activation") == "relu", attrs.get("rounding", "even")
        out = Output.of(y, scale, target, unit, bound, relu, mode, where)
        if accumulation.guard is not None and out.total >= FLOAT_SAFE:
            raise UnsupportedOp(
                f"{where}: the aligned sum times its multiplier takes over 53 bits; use a smaller guard"
            )
        return cls(
            name=name,
            rows=rows,
            taps=taps,
            cols=cols,
            outputs=outputs,
            sets=sets,
            x=x,
            w=w,
            zero=zero,
            low=low,
            weight=code.mantissa.flatten(1),
            weight_exp=None if code.exponent is None else code.exponent.flatten(1),
            bias=start,
            bias_exp=start_exp,
            acc_width=width,
            bound=bound,
            guard=accumulation.guard,
            out=out,
            packed=packed,
            **own,
        )

    @property
    def title(self) -> str:
        """What errors call it."""
        return self.name

    @property
    def accumulation(self) -> str:
        """How products are summed, in the configuration's words."""
        return "exact" if self.guard is None else f"aligned({self.guard})"

    @cached_property
    def product(self) -> Product:
        """How inputs are multiplied by weights."""
        if self.packed is not None:
            return Product.of(self.packed.grid, self.packed.elements)
        return Product.of(self.w, self.weight)

    @property
    def inputs(self) -> int:
        """Elements of a row."""
        return self.taps * self.cols

    # -- arithmetic -------------------------------------------------------------------------------------------------

    @cached_property
    def carrier(self) -> torch.dtype:
        """Narrowest dtype in which every partial sum is exact and every operand finite: float32, float64 or int64."""
        if self.guard is not None:
            return torch.float64
        return carrier(self.bound, self.x.reach, self.w.reach)

    @cached_property
    def _matrix(self) -> Tensor:
        """Weights as integers ``[sets, inputs, outputs of a set]``."""
        exponent = None if self.weight_exp is None else self.weight_exp.unflatten(1, (self.taps, -1))
        weight = self.w.integers(Code(self.weight.unflatten(1, (self.taps, -1)), exponent), self.carrier)
        return weight.reshape(self.sets, -1, self.inputs).transpose(1, 2).contiguous()

    @cached_property
    def _start(self) -> Tensor:
        return self.bias.to(self.carrier)

    def sums(self, x: Code) -> Tensor:
        """Return what the accumulators hold ``[samples, rows, outputs]`` at the end of each row, on one unit.

        Args:
            x: codes ``[samples, rows * sets * taps, cols]``.
        """
        samples = len(x.mantissa)
        if self.guard is not None:
            return self._aligned(x).reshape(samples, -1, self.outputs)
        rows = self.x.integers(x, self.carrier).reshape(-1, self.sets, self.inputs)
        if self.sets == 1:
            found = rows[:, 0] @ self._matrix[0]
        else:
            found = torch.bmm(rows.transpose(0, 1), self._matrix).transpose(0, 1)
        return found.reshape(samples, -1, self.outputs).add_(self._start)

    def _aligned(self, x: Code) -> Tensor:
        """Return sums on the grid of the least exponent: float64 integers with at most 53 significant bits."""
        rows = self._regions(x.mantissa.reshape(-1, self.sets, self.taps, self.cols).double())
        if x.exponent is not None:
            exponent = x.exponent.reshape(-1, self.sets, self.taps, x.exponent.shape[-1])
            scale = pow2(self._region_exp(exponent, self.x)).unsqueeze(-1)
        else:
            scale = torch.ones(1, self.sets, self.regions, 1, dtype=torch.float64).expand(rows.shape[0], -1, -1, -1)
        rows = rows * scale
        found = [self._aligned_set(i, rows[:, i], scale[:, i]) for i in range(self.sets)]
        return found[0] if self.sets == 1 else torch.cat(found, -1)

    def _aligned_set(self, which: int, rows: Tensor, scale: Tensor) -> Tensor:
        """Return the sums of one set from regions ``[rows, regions, elements]`` times their powers of two."""
        rows, scale = rows.transpose(0, 1), scale.transpose(0, 1)
        step = max(1, CHUNK * self.sets // self.outputs)
        parts = zip(rows.split(step, 1), scale.split(step, 1), strict=True)
        return torch.cat([self._aligned_sums(self._aligned_operands[which], *part) for part in parts])

    def _aligned_sums(self, operands: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor, scale: Tensor) -> Tensor:
        """Sum regions ``[regions, rows, elements]``, already times their powers of two ``[regions, rows, 1]``."""
        assert self.guard is not None
        weight, weight_scale, bias, bias_scale = operands
        top = bias_scale.expand(rows.shape[1], -1)
        for x, w in zip(scale, weight_scale, strict=True):
            top = torch.maximum(top, x * w)
        grain = 2.0**self.guard / top
        total = (bias * grain).floor_()
        for x, w in zip(rows, weight, strict=True):
            total += (x @ w).mul_(grain).floor_()
        return total.mul_(top)

    @cached_property
    def _aligned_operands(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return, by set, scaled weights ``[regions, elements, outputs]``, their scales, scaled biases, and theirs.

        A scale is the power of two of an exponent, 1 where there is none.
        """
        assert self.bias_exp is not None
        scale = torch.ones(self.outputs, self.regions, dtype=torch.float64)
        if self.weight_exp is not None:
            scale = pow2(self._region_exp(self.weight_exp.unflatten(1, (self.taps, -1)), self.w))
        weight = self._regions(self.weight.unflatten(1, (self.taps, -1)).double()) * scale.unsqueeze(-1)
        bias_scale = pow2(self.bias_exp)
        bias = self.bias.double() * bias_scale
        parts = [t.chunk(self.sets) for t in (weight, scale, bias, bias_scale)]
        return [
            (one.permute(1, 2, 0).contiguous(), of_one.T.contiguous(), start, of_start)
            for one, of_one, start, of_start in zip(*parts, strict=True)
        ]

    @property
    def region(self) -> int:
        """Elements of a part that share both exponents."""
        return math.gcd(self.x.block, self.w.block)

    @property
    def regions(self) -> int:
        """Regions of a row, the last one of each part perhaps partial."""
        return self.taps * -(-self.cols // self.region)

    def _regions(self, x: Tensor) -> Tensor:
        """Return ``[..., regions, elements]`` from ``[..., taps, cols]``."""
        padded: Tensor = functional.pad(x, (0, self.regions // self.taps * self.region - self.cols))
        return padded.reshape(*x.shape[:-2], self.regions, self.region)

    def _region_exp(self, exponent: Tensor, grid: Grid) -> Tensor:
        """Return the exponents ``[..., regions]`` above the base from those of blocks ``[..., taps, blocks]``."""
        first = torch.arange(self.regions // self.taps) * self.region // grid.block
        return (exponent - grid.base)[..., first].flatten(-2)

    def oracle_rows(self, x: Code) -> Code:
        """Return the codes of the result ``[samples, rows, outputs]`` from ``[samples, rows * sets * taps, cols]``."""
        rows = x.mantissa.reshape(-1, self.sets, self.inputs).tolist()
        exps = None if x.exponent is None else x.exponent.reshape(len(rows), self.sets, -1).tolist()
        mantissas, exponents, part = [], [], self.outputs // self.sets
        for r, row in enumerate(rows):
            pairs = [(o, o // part) for o in range(self.outputs)]
            m, e = self.out.scalar(
                [self._oracle_sum(o, row[i], None if exps is None else exps[r][i]) for o, i in pairs]
            )
            mantissas.append(m)
            exponents.append(e)
        samples, block = len(x.mantissa), self.out.grid.block
        shaped = torch.tensor(mantissas).reshape(samples, -1, self.outputs)
        if not block:
            return Code(shaped)
        return Code(shaped, torch.tensor(exponents).reshape(samples, -1, -(-self.outputs // block)))

    def _oracle_sum(self, o: int, row: list[int], exps: list[int] | None) -> int:
        """Return the exact or aligned sum of one output, on the accumulator's unit."""
        weight = self.weight[o].tolist()
        w_exps = None if self.weight_exp is None else self.weight_exp[o].tolist()

        def exponent(k: int) -> int:
            e = 0
            for found, grid in ((exps, self.x), (w_exps, self.w)):
                if found is not None:
                    tap, c = divmod(k, self.cols)
                    e += found[tap * -(-self.cols // grid.block) + c // grid.block] - grid.base
            return e

        if self.guard is None:
            total = int(self.bias[o])
            for k, (x, w) in enumerate(zip(row, weight, strict=True)):
                total += int(x * w) << exponent(k)
            return total
        assert self.bias_exp is not None
        parts = []  # (sum of a region, its exponent)
        for tap in range(self.taps):
            for start in range(tap * self.cols, (tap + 1) * self.cols, self.region):
                span = range(start, min(start + self.region, (tap + 1) * self.cols))
                parts.append((sum(row[k] * weight[k] for k in span), exponent(start)))
        parts.append((int(self.bias[o]), int(self.bias_exp[o])))
        top = max(e for _, e in parts)
        return sum(int(p << self.guard) >> (top - e) for p, e in parts) << top

    # -- hardware ---------------------------------------------------------------------------------------------------

    @property
    def exp_max(self) -> int:
        """Greatest sum of two exponents, and of the bias's in aligned mode."""
        most = self.x.span + self.w.span
        return most if self.bias_exp is None else max(most, int(self.bias_exp.max()))

    @property
    def raw_width(self) -> int:
        """Bits of the integers that are rounded."""
        return self.acc_width + self.out.mult_bits + (self.exp_max if self.guard is not None else 0)

    @property
    def weight_exp_bits(self) -> int:
        """Stored bits of a weight exponent; at least one, so that a block format keeps its exponent path."""
        return max(1, self.w.span.bit_length()) if self.w.block else 0

    @cached_property
    def bias_width(self) -> int:
        """Stored bits of a bias."""
        return min(self.acc_width, signed_width(int(self.bias.min()), int(self.bias.max())))


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights as integers, apart from what they are multiplied by.

    Args:
        code: ``[outputs, taps, cols or blocks]``. scale: real, if the grid has one. packed: as of :class:`Sums`.
    """

    grid: Grid
    code: Code
    scale: Tensor | None
    packed: Packed | None

    @cached_property
    def integers(self) -> Tensor:
        """The weights ``[outputs, inputs]`` in float64."""
        return self.grid.integers(self.code).flatten(1)

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each output the sum of its weights, of those above 0, of those below 0, and of their magnitudes."""
        w = self.integers
        return w.sum(1), w.clamp(min=0).sum(1), w.clamp(max=0).sum(1), w.abs().sum(1)


def _weights(
    weight: Tensor, fmt: Format, params: QuantParams, parts: Callable[[Tensor], Tensor], scattered: bool, where: str
) -> _Weights:
    """Return weights as integers; see :meth:`Sums._build`."""
    w, code, scale, packed = fmt.constants(weight, params, where)
    if not w.signed:  # the RTL reads weights as signed numbers
        w = replace(w, width=w.element_bits, signed=True)
    if scattered and w.block:
        w, code = w.each(code, params.axis)
    code = Code(parts(code.mantissa), None if code.exponent is None else parts(code.exponent))
    if w.block:
        assert code.exponent is not None
        least, most = int(code.exponent.min()), int(code.exponent.max())
        w = replace(w, unit=w.unit + least - w.base, base=least, span=most - least)
    if packed is not None and not scattered:
        elements, factor = (parts(t).flatten(1) for t in (packed.elements, packed.factor))
        packed = packed._replace(elements=elements, factor=factor)
    return _Weights(w, code, scale, packed)


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


@dataclass(frozen=True, eq=False)
class _Terms:
    """Derive accumulator and bias from grids, weight codes and the real bias (in units of the real scale)."""

    x: Grid
    w: Grid
    zero: int
    low: int
    weights: _Weights
    bias: Tensor
    guard: int | None

    @property
    def unit(self) -> int:
        """Exponent of the integer 1."""
        return self.x.unit + self.w.unit

    def exact(self, where: str) -> tuple[Tensor, None, int, int, int]:
        """Return bias, no exponents, bound, width and unit of the exact accumulator."""
        total, above, below, size = self.weights.sums
        high, low = float(self.x.high << self.x.span), float(self.low << self.x.span)
        bias = (self.bias * 2.0**-self.unit).round() - self.zero * total
        reach = max(abs(low), abs(high))
        bound = float((bias.abs() + size * reach).max())
        if low <= 0 <= high and bound < 2.0**53:  # whole numbers that float64 holds, in any order
            tops, ends = above * high + below * low, above * low + below * high
        else:
            products = torch.stack((self.weights.integers * low, self.weights.integers * high))
            tops, ends = products.amax(0).clamp(min=0).sum(1), products.amin(0).clamp(max=0).sum(1)
        most = float((bias.clamp(min=0) + tops).max())
        least = float((bias.clamp(max=0) + ends).min())
        blocks = bool(self.x.block or self.w.block)
        limit = EXACT_LIMIT if blocks else REFUSE
        if not max(most, -least - 1) < 2.0 ** (limit - 1) or bound >= 2.0**62:
            bits = math.ceil(math.log2(max(most, -least, 1.0))) + 1
            hint = "; use accumulation aligned(G), or a smaller exponent window" if blocks else ""
            raise UnsupportedOp(f"{where}: the accumulator takes {bits} bits; allowed are {limit}{hint}")
        # Exact whole numbers: float64 may have rounded sums over 2**53 up or down, so widen by one part in 2**40.
        slack = 1.0 if bound < 2.0**53 else 1.0 + 2.0**-40
        width = signed_width(math.floor(least * slack), math.ceil(most * slack))
        return whole(bias), None, math.ceil(bound * slack), width, self.unit

    def aligned(self, where: str) -> tuple[Tensor, Tensor, int, int, int]:
        """Return bias mantissas and exponents, bound, width and unit of the aligned accumulator."""
        assert self.guard is not None
        _, taps, cols = self.weights.code.mantissa.shape
        region = math.gcd(self.x.block, self.w.block)
        part = region * max(abs(self.low), self.x.high) * max(abs(self.w.low), self.w.high)
        part = max(part, 1 << BIAS_BITS)
        real = self.bias * 2.0**-self.unit
        exponent = torch.frexp(real.abs() / part)[1].clamp(min=0).to(torch.int64)
        mantissa = (real * pow2(-exponent)).round()
        terms = taps * -(-cols // region) + 1
        bound = terms * part << self.guard
        if bound >= 1 << 53:
            raise UnsupportedOp(f"{where}: the aligned accumulator takes {bound.bit_length() + 1} bits; allowed are 53")
        return whole(mantissa), exponent, bound, signed_width(-bound, bound), self.unit - self.guard


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return a if b is None else b
    return a * b
