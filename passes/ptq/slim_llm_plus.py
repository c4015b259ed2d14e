"""SliM-LLM+: the widths of SliM-LLM, ranges of groups learned block by block (docs/ptq/slim_llm.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.formats.packed import PackedWeight
from mase.formats.scales import round_scale
from passes.ptq.base import METHODS, Block, Layer, Method, Stage
from passes.ptq.blockwise import Kept, Runner, batches, straight
from passes.ptq.columns import Factor
from passes.ptq.fields import number, seeded, whole
from passes.ptq.slim_llm import Salience, Shared, choose_widths, packed, rounder, some

START = 4.0  # of the logits of ranges: the extremes all but whole
HALF = 0.5  # what a logit of 0 leaves of a scale of one bit


@METHODS.add("slim_llm_plus")
@dataclass(frozen=True)
class SlimLlmPlus(Salience, Method):
    """Learn ``high = sigmoid(g) max w`` and ``low = sigmoid(b) min w`` of each row and group, groups of mixed widths.

    Groups of one bit are mean and mean magnitude, the latter times ``sigmoid(g) + 0.5``.

    Args:
        bits, group, tokens, damp: of the widths, as in ``slim_llm``.
        epochs: over all samples. rate: of AdamW. batch: samples a step. seed: of their order.

    Source: W. Huang et al., SliM-LLM, ICML 2025, SliM-LLM+; W. Shao et al., OmniQuant, 2023, learnable clipping.
    """

    epochs: int = 10
    rate: float = 1e-2
    batch: int = 1
    seed: int = 42
    needs: ClassVar[tuple[str, ...]] = ("gram", "inputs")
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "quantizer"

    def __post_init__(self) -> None:
        self.ranges("slim_llm_plus")
        whole("slim_llm_plus.epochs", self.epochs, 1, 1000)
        number("slim_llm_plus.rate", self.rate, 0, 1)
        whole("slim_llm_plus.batch", self.batch, 1, 1024)
        seeded("slim_llm_plus.seed", self.seed)

    def run(self, block: Block) -> None:
        parts = {layer.path: self._ranges(layer) for layer in block.layers(self.needs)}
        if not parts:
            return
        self._train(Runner(block, "slim_llm_plus"), parts)
        for path, part in parts.items():
            block.write(path, part.packed())

    def _ranges(self, layer: Layer) -> _Ranges:
        where = f"slim_llm_plus: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        weight = factor.cleaned(layer.weight, where)
        x = some(layer.seen.need("inputs", where), self.tokens)
        return _Ranges(weight, choose_widths(weight, factor.salience(weight), x, self.bits, self.group), self.group)

    def _train(self, runner: Runner, parts: Mapping[str, _Ranges]) -> None:
        """Leave the ranges of the epoch of the least loss over all samples in ``parts``, the start among them."""
        optimiser = torch.optim.AdamW([x for part in parts.values() for x in part.logits], self.rate, weight_decay=0.0)
        every = list(range(len(runner.samples)))
        least, size = runner.loss(_rounded(parts), every), max(1, len(every) // self.batch)
        for step, which in enumerate(batches(len(every), self.batch, self.epochs * size, self.seed), 1):
            optimiser.zero_grad()
            runner.checked(runner.backward({path: part.rounded() for path, part in parts.items()}, which), step)
            optimiser.step()
            found = runner.loss(_rounded(parts), every) if step % size == 0 else least
            if found < least:
                least = found
                for part in parts.values():
                    part.keep()
        for part in parts.values():
            part.back()


def _rounded(parts: Mapping[str, _Ranges]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {path: part.rounded() for path, part in parts.items()}


class _Ranges(Kept):
    """The ranges of one layer's groups while they are learned: one number a row and group."""

    def __init__(self, weight: Tensor, widths: Sequence[int], group: int) -> None:
        self.weight, self.widths, self.group = weight, list(widths), group
        parts = weight.split(group, 1)
        self.low = torch.stack([part.amin(1) for part in parts], 1).clamp(max=0)
        self.high = torch.stack([part.amax(1) for part in parts], 1).clamp(min=0)
        self.mean = torch.stack([part.mean(1) for part in parts], 1)
        self.size = torch.stack([part.abs().mean(1) for part in parts], 1)
        self.one = torch.tensor([width == 1 for width in widths])
        self.top = torch.tensor([float((1 << width) - 1) for width in widths])
        self.logits = [torch.full_like(self.low, START, requires_grad=True) for _ in range(2)]
        with torch.no_grad():
            for logit in self.logits:
                logit[:, self.one] = 0.0
        self.keep()

    def state(self) -> tuple[Tensor, ...]:
        return tuple(self.logits)

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return scale, and zero point or for one bit offset, of each row and group, with gradients, as stored."""
        low, high = (torch.sigmoid(g) for g in self.logits)
        size = self.size * (high + HALF)
        scale = _stored(torch.where(self.one, 2 * size, (self.high * high - self.low * low) / self.top))
        zero = straight(-self.low * low / scale)
        zero = torch.minimum(zero.clamp(min=0), self.top)
        return scale, torch.where(self.one, _stored(self.mean - size, zero_stays=True), zero)

    def rounded(self) -> Tensor:
        """Return the weights on the grid of the ranges now, rounding taken as the identity backwards."""
        scale, zero = (self._spread(x) for x in self.steps())
        one, top = (self._spread(x.expand_as(self.low)) for x in (self.one, self.top))
        pair = straight((self.weight - zero) / scale).clamp(0, 1) * scale + zero
        affine = (torch.minimum((straight(self.weight / scale) + zero).clamp(min=0), top) - zero) * scale
        return torch.where(one, pair, affine)

    def packed(self) -> PackedWeight:
        """Return the weights as they are stored."""
        scale, zero = (x.detach() for x in self.steps())
        shared: list[Shared] = list(zip(scale.unbind(1), zero.unbind(1), strict=True))
        parts = self.weight.split(self.group, 1)
        dense = [rounder(*pair, bits)(w.T, 0).T for pair, bits, w in zip(shared, self.widths, parts, strict=True)]
        return packed(torch.cat(dense, 1), self.widths, shared, self.group)

    def _spread(self, shared: Tensor) -> Tensor:
        return shared.repeat_interleave(self.group, 1)[:, : self.weight.shape[1]]


def _stored(x: Tensor, zero_stays: bool = False) -> Tensor:
    """Round to fp16; the gradient passes. Scales are never 0, offsets may be."""
    found = round_scale(x.detach().double(), "fp16").float()
    found = torch.where(x.detach() == 0, 0.0, found) if zero_stays else found
    return (found - x).detach() + x
