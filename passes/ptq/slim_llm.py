"""SliM-LLM: widths by salience of groups, scales by salience of weights, rounding as in GPTQ (docs/ptq/slim_llm.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.calib.statistics import MOST_INPUTS
from mase.formats import QuantParams
from mase.formats.int import Int
from mase.formats.packed import PackedWeight, Piece
from mase.formats.scales import round_scale
from passes.ptq.base import METHODS, Layer, Quantizer
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.fields import number, whole

FACTORS = (1.0, *(1 + 0.002 * k for k in range(1, 51)), *(1 - 0.002 * k for k in range(1, 51)))
NORM = 2.4  # of errors in the search for scales
OUTLIER = 2.0  # standard deviations from which a weight's salience makes it salient
LEAST_GROUPS = 4  # with fewer, all groups have the same width
LEAST_CHANCE = 1e-6  # of a probability
MAP_BITS = 2  # a group
Shared = tuple[Tensor, Tensor]  # scale and zero point or offset, float32 [outputs]


@dataclass(frozen=True)
class Salience:
    """Fields that SliM-LLM and SliM-LLM+ have in common."""

    bits: int = 2
    group: int = 128
    tokens: int = 1024
    damp: float = 0.01

    def ranges(self, name: str) -> None:
        """Refuse impossible fields."""
        whole(f"{name}.bits", self.bits, 2, 8)
        whole(f"{name}.group", self.group, 1)
        whole(f"{name}.tokens", self.tokens, 1, MOST_INPUTS)
        number(f"{name}.damp", self.damp, 0, 1)


@METHODS.add("slim_llm")
@dataclass(frozen=True)
class SlimLlm(Salience, Quantizer):
    """Give as many groups of columns one bit more as others get one less, and round them column by column.

    Args:
        bits: average of a layer, 2..8. group: columns that have a width together, and scales a row.
        tokens: of the calibration data on which widths are compared, evenly drawn.
        damp: as in GPTQ. weight: how much more errors of salient weights count in the search for scales, from 1.

    Source: W. Huang et al., SliM-LLM, ICML 2025.
    """

    weight: float = 2.0
    needs: ClassVar[tuple[str, ...]] = ("gram", "inputs")

    def __post_init__(self) -> None:
        self.ranges("slim_llm")
        number("slim_llm.weight", self.weight, 1, 1000)

    def layer(self, layer: Layer) -> PackedWeight:
        where = f"slim_llm: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        weight = factor.cleaned(layer.weight, where)
        x = some(layer.seen.need("inputs", where), self.tokens)
        widths = choose_widths(weight, factor.salience(weight), x, self.bits, self.group)
        shared: list[Shared] = []

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            own = columns[: self.group]
            w, bits = rest[:, : len(own)], widths[len(shared)]
            salience = (w / factor.diagonal[own]).square()
            shared.append(one_bit(w) if bits == 1 else fitted(w, salience, bits, self.weight))
            return rounder(*shared[-1], bits)

        dense = propagate(weight, factor, begin, self.group)
        return packed(dense, widths, shared, self.group)


def choose_widths(weight: Tensor, salience: Tensor, x: Tensor, bits: int, group: int) -> list[int]:
    """Return bits for each group of columns: the k most salient get one bit more, the k least salient one less.

    The k is taken under which the softmax of the outputs is nearest to that of the float layer, by their divergence
    ``KL(quantized || float)``, groups rounded to nearest. A short last group keeps ``bits``, so that the average holds.
    """
    inputs = weight.shape[1]
    spans = [slice(i, min(i + group, inputs)) for i in range(0, inputs, group)]
    full = [i for i, span in enumerate(spans) if span.stop - span.start == group]
    widths = [bits] * len(spans)
    if len(full) < LEAST_GROUPS:
        return widths
    total = [float(salience[:, span].sum()) for span in spans]
    order = sorted(full, key=lambda i: total[i])
    wanted = torch.log_softmax(x @ weight.T, -1).clamp_(min=torch.log(torch.tensor(LEAST_CHANCE)))
    rounded = {width: nearest(weight, width, group) for width in (bits - 1, bits, bits + 1)}
    y, best, least = x @ rounded[bits].T, 0, float("inf")
    for k in range(1, len(full) // 2):
        for index, width in ((order[k - 1], bits - 1), (order[-k], bits + 1)):
            span = spans[index]
            y += x[:, span] @ (rounded[width][:, span] - rounded[bits][:, span]).T
        found = divergence(y, wanted)
        if found < least:
            best, least = k, found
    for index in order[:best]:
        widths[index] = bits - 1
    for index in order[len(order) - best :]:
        widths[index] = bits + 1
    return widths


def divergence(y: Tensor, wanted: Tensor) -> float:
    """Return the mean over tokens of ``KL(softmax y || p)`` for logarithms of p."""
    own = torch.log_softmax(y, -1).clamp_(min=torch.log(torch.tensor(LEAST_CHANCE)))
    return float((own.exp() * (own - wanted)).sum(-1).mean())


def nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    """Round to nearest, groups by their extremes; one bit is mean and deviation."""
    fmt = format_of(bits, group)
    if bits > 1:
        return fmt.quantize(weight, fmt.calibrate(weight, -1))
    parts = [weight[:, i : i + group] for i in range(0, weight.shape[1], group)]
    return torch.cat([rounder(*one_bit(w), 1)(w.T, 0).T for w in parts], 1)


def format_of(bits: int, group: int) -> Int:
    """Return the format of groups of a width: a zero point, of one bit a real offset."""
    return Int(bits, group=group, zero="real" if bits == 1 else "int", scale_type="fp16")


def one_bit(w: Tensor) -> Shared:
    """Return scale and offset of two values around the mean of each row, a mean magnitude away."""
    mean, size = w.double().mean(1), w.double().abs().mean(1)
    low = mean - size
    return round_scale(2 * size, "fp16").float(), torch.where(low == 0, 0.0, round_scale(low, "fp16")).float()


def fitted(w: Tensor, salience: Tensor, bits: int, weight: float) -> Shared:
    """Return scale and zero point of each row: the extremes times the factor of the least error, salient ones weighed.

    Salient are the weights from the least salience on that lies more than two standard deviations off the mean.
    """
    off = (salience - salience.mean()).abs() > OUTLIER * salience.std()
    salient = salience >= salience[off].min() if bool(off.any()) else torch.zeros_like(off)
    counts = 1 + (weight - 1) * salient
    factors = torch.tensor(FACTORS)[:, None]
    scales, zeros = extremes(w.amin(1).clamp(max=0) * factors, w.amax(1).clamp(min=0) * factors, bits)
    return least_of(w, (scales, zeros), lambda scale, zero: rounder(scale, zero, bits), counts)


def least_of(
    w: Tensor, candidates: Shared, rounding: Callable[[Tensor, Tensor], Rounder], counts: Tensor | None = None
) -> Shared:
    """Return of candidates ``[candidates, outputs]`` those under which each row errs least.

    Args:
        counts: how often an element's error counts.
    """
    errors = []
    for pair in zip(*candidates, strict=True):
        error = (rounding(*pair)(w.T, 0).T - w).abs_().pow_(NORM)
        errors.append((error if counts is None else error.mul_(counts)).sum(1))
    best = torch.stack(errors).argmin(0, keepdim=True)
    scale, zero = (shared.gather(0, best).squeeze(0) for shared in candidates)
    return scale, zero


def extremes(low: Tensor, high: Tensor, bits: int) -> Shared:
    """Return scale and zero point of a range."""
    top = (1 << bits) - 1
    scale = round_scale((high - low).double() / top, "fp16").float()
    return scale, (-low / scale).round_().clamp_(0, top)


def rounder(scale: Tensor, zero: Tensor, bits: int) -> Rounder:
    """Return how columns are rounded; ``zero`` is the offset of one bit."""

    def affine(weights: Tensor, column: int) -> Tensor:
        return (weights / scale).round_().add_(zero).clamp_(0, (1 << bits) - 1).sub_(zero).mul_(scale)

    return with_offset(scale, zero, 1) if bits == 1 else affine


def with_offset(scale: Tensor, offset: Tensor, bits: int) -> Rounder:
    """Return how columns are rounded to ``offset + scale q``."""
    top = (1 << bits) - 1
    return lambda w, column: ((w - offset) / scale).round_().clamp_(0, top).mul_(scale).add_(offset)


def packed(dense: Tensor, widths: Sequence[int], shared: Sequence[Shared], group: int) -> PackedWeight:
    """Return rounded weights as one piece for each width."""
    pieces = []
    for width in sorted(set(widths)):
        own = [i for i, other in enumerate(widths) if other == width]
        columns = torch.cat([torch.arange(i * group, min((i + 1) * group, dense.shape[1])) for i in own])
        scale, zero = (torch.stack([shared[i][part] for i in own], 1).double() for part in (0, 1))
        params = QuantParams(scale, offset=zero) if width == 1 else QuantParams(scale, zero.long())
        pieces.append(Piece.of(dense[:, columns], format_of(width, group), params, columns))
    if len(pieces) == 1:
        only = pieces[0]
        pieces = [Piece(only.format, only.params, only.code)]
    map_bits = MAP_BITS * len(widths) if len(set(widths)) > 1 else 0
    return PackedWeight((dense.shape[0], dense.shape[1]), tuple(pieces), map_bits)


def some(x: Tensor, count: int) -> Tensor:
    """Return at most so many tokens, evenly drawn."""
    return x if len(x) <= count else x[torch.linspace(0, len(x) - 1, count).long()]
