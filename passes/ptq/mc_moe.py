"""MC-MoE: widths of experts by what they matter, then GPTQ with real offsets (docs/ptq/mc_moe.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from mase.calib import experts
from mase.calib.allocate import check_budget, expert_bits
from mase.calib.layers import Place
from mase.errors import ConfigError
from mase.formats import QuantParams
from mase.formats.int import Int
from mase.formats.packed import PackedWeight
from mase.formats.scales import round_scale
from passes.ptq.base import METHODS, Block, Layer, Method, Stage
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.fields import number, whole
from passes.ptq.slim_llm import FACTORS, Shared, least_of, with_offset

WIDTHS = (1, 2, 3)  # of experts
PRESENT = (2, 3)  # widths that at least one expert has


@METHODS.add("mc_moe")
@dataclass(frozen=True)
class McMoe(Method):
    """Give the experts of each layer 1, 2 or 3 bits within an average, all other layers one width.

    Args:
        bits: average of the experts of a layer, 1..3. others: bits of all layers that are not experts, 1..8.
        group: columns that share a scale and an offset a row. damp: as in GPTQ.
        frequency, weight, error: exponents of an expert's loss.

    Source: W. Huang et al., MC-MoE, ICLR 2025, pre-loading mixed-precision quantization.
    """

    bits: float = 2.0
    others: int = 4
    group: int = 128
    damp: float = 0.01
    frequency: float = 1.0
    weight: float = 1.5
    error: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ("gram",)
    blockwise: ClassVar[bool] = True
    stage: ClassVar[Stage] = "quantizer"

    def __post_init__(self) -> None:
        number("mc_moe.bits", self.bits, 1, 3)
        whole("mc_moe.others", self.others, 1, 8)
        whole("mc_moe.group", self.group, 1)
        number("mc_moe.damp", self.damp, 0, 1)
        for name in ("frequency", "weight", "error"):
            number(f"mc_moe.{name}", getattr(self, name), 0, 10)

    def check(self, layers: Sequence[Place]) -> None:
        counts = Counter((p.path.rpartition("[")[0], p.node) for p in layers if p.expert is not None)
        if not counts:
            raise ConfigError(
                "mc_moe: none of its layers is an expert; allowed are mixtures of experts, such as Mixtral; gptq and "
                "slim_llm are for other models"
            )
        for count in counts.values():
            check_budget(count, self._budget(count), WIDTHS, PRESENT)

    def _budget(self, count: int) -> int:
        return int(self.bits * count + 1e-9)

    def run(self, block: Block) -> None:
        widths = self.widths(block)
        for layer in block.layers(self.needs):
            bits = widths.get(layer.path, self.others)
            block.write(layer.path, self.layer(layer, bits))

    def widths(self, block: Block) -> dict[str, int]:
        """Return the bits of each expert's matrices, by path."""
        seen, found = experts.inputs(block.graph, block.samples()), dict[str, int]()
        for node in experts.mixtures(block.graph):
            count, samples = node.record.attrs["experts"], seen[node.name]
            if not samples:
                raise ConfigError(f"mc_moe: {node.path}: needs calibration data; pass calibration tokens")
            often, much = experts.Routing.of(node, torch.cat(samples)).counts(count)
            roundings = [partial(nearest, bits=bits, group=self.group) for bits in WIDTHS]
            lost = experts.errors(node, samples, roundings)
            exponents = (self.frequency, self.weight, self.error)
            chosen = expert_bits(often, much, lost, self._budget(count), WIDTHS, PRESENT, exponents)
            for expert, bits in enumerate(chosen):
                found |= {f"{node.path}.{role}[{expert}]": bits for role in experts.MATRICES}
        return found

    def layer(self, layer: Layer, bits: int) -> PackedWeight:
        """Return the weights of a layer in so many bits."""
        where = f"mc_moe: {layer.path}"
        factor = Factor.seen(layer.seen, self.damp, where=where)
        shared: list[Shared] = []

        def begin(rest: Tensor, columns: Tensor) -> Rounder:
            shared.append(fitted(rest[:, : self.group], bits))
            return with_offset(*shared[-1], bits)

        dense = propagate(factor.cleaned(layer.weight, where), factor, begin, self.group)
        scale, offset = (torch.stack([pair[i] for pair in shared], 1).double() for i in (0, 1))
        return PackedWeight.of(dense, _format(bits, self.group), QuantParams(scale, offset=offset))


def _format(bits: int, group: int) -> Int:
    return Int(bits, group=group, zero="real", scale_type="fp16")


def fitted(w: Tensor, bits: int) -> Shared:
    """Return scale and offset of each row: its extremes times the factor of least error; one bit is +-mean |w|."""
    low, high = _ends(w, bits)
    if bits == 1:
        return _shared(low, high, bits)
    factors = torch.tensor(FACTORS, dtype=torch.float64)[:, None]
    scales, offsets = _shared(low * factors, high * factors, bits)
    return least_of(w, (scales, offsets), lambda scale, offset: with_offset(scale, offset, bits))


def _shared(low: Tensor, high: Tensor, bits: int) -> Shared:
    offset = torch.where(low == 0, 0.0, round_scale(low, "fp16"))
    return round_scale((high - low) / ((1 << bits) - 1), "fp16").float(), offset.float()


def nearest(w: Tensor, bits: int, group: int) -> Tensor:
    """Round to nearest in groups; zero points are not rounded, and one bit has no mean."""
    parts = [w[:, i : i + group].float() for i in range(0, w.shape[1], group)]
    return torch.cat([with_offset(*_shared(*_ends(part, bits), bits), bits)(part.T, 0).T for part in parts], 1)


def _ends(w: Tensor, bits: int) -> Shared:
    """Return the extremes of each row, float64, 0 among them; of one bit +-mean |w|."""
    w = w.double()
    size = w.abs().mean(1)
    return (-size, size) if bits == 1 else (w.amin(1).clamp(max=0), w.amax(1).clamp(min=0))
