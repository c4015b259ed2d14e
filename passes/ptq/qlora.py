"""QLoRA: weights in NF4 with quantized scales, and a low-rank branch to be trained (docs/ptq/qpeft.md)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Block, Layer, Quantizer
from passes.ptq.fields import choice, seeded, whole
from passes.ptq.l2qer import L2qer
from passes.ptq.lowrank import branch_bits, correction
from passes.ptq.qera import Qera

Start = Literal["zero", "lqer", "l2qer", "qera", "loftq"]
NEEDS: Mapping[str, tuple[str, ...]] = {"l2qer": ("mean_peak",), "qera": ("gram",)}
METRICS: Mapping[str, Callable[[Layer], Tensor | None]] = {"l2qer": L2qer().metric, "qera": Qera().metric}


@METHODS.add("qlora")
@dataclass(frozen=True)
class Qlora(Quantizer):
    """Round to nearest and add a branch ``b a`` that fine-tuning starts from.

    Args:
        format: of the weights. rank: of the branch. branch: format of ``a`` and ``b``; ``e8m7ieee`` is bfloat16.
        start: ``zero`` draws ``a`` and leaves the layer as it was rounded; ``lqer``, ``l2qer`` and ``qera`` begin with
            the best correction of the error; ``loftq`` rounds what the branch leaves, and corrects again.
        rounds: of ``loftq``. seed: of what ``zero`` draws.

    Source: Dettmers et al., QLoRA, 2023; Li et al., LoftQ, 2024; C. Zhang et al., QERA, 2025.
    """

    format: str = "nfq4"
    rank: int = 64
    branch: str = "e8m7ieee"
    start: Start = "zero"
    rounds: int = 5
    seed: int = 0
    needs: ClassVar[tuple[str, ...]] = ("gram", "mean_peak")
    branches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole(f"{self.name}.rank", self.rank, 1)
        whole(f"{self.name}.rounds", self.rounds, 1)
        seeded(f"{self.name}.seed", self.seed)
        choice(f"{self.name}.start", self.start, get_args(Start))
        parse(self.format)
        parse(self.branch)

    @property
    def name(self) -> str:
        """Name of the method, for errors."""
        return "qlora"

    @property
    def wanted(self) -> tuple[str, ...]:
        """Sums over the inputs that the start needs."""
        return NEEDS.get(self.start, ())

    @property
    def calibrates(self) -> bool:
        return bool(self.wanted)

    def extra_bits(self, shape: tuple[int, int]) -> int:
        return branch_bits(shape, self.rank, self.branch)

    def run(self, block: Block) -> None:
        for layer in block.layers(self.wanted):
            block.write(layer.path, self.layer(layer))

    def layer(self, layer: Layer) -> PackedWeight:
        fmt, weight = parse(self.format), layer.weight
        if self.start == "zero":
            a, b = self._drawn(layer)
            return self._with(PackedWeight.of(weight, fmt), a, b)
        packed = PackedWeight.of(weight, fmt)
        metric = METRICS[self.start](layer) if self.start in METRICS else None
        a, b = correction(layer.wanted - packed.dense(), metric, self.rank)
        for _ in range(self.rounds - 1 if self.start == "loftq" else 0):
            packed = PackedWeight.of(weight - (b @ a).float(), fmt)
            a, b = correction(layer.wanted - packed.dense(), None, self.rank)
        return self._with(packed, a, b)

    def _drawn(self, layer: Layer) -> tuple[Tensor, Tensor]:
        outputs, inputs = layer.weight.shape
        draw = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {layer.path}".encode()))
        rank = min(self.rank, outputs, inputs)
        return (torch.rand(rank, inputs, generator=draw) * 2 - 1) / inputs**0.5, torch.zeros(outputs, rank)

    def _with(self, packed: PackedWeight, a: Tensor, b: Tensor) -> PackedWeight:
        fmt = parse(self.branch)
        branch = PackedWeight.of(a.float(), fmt), PackedWeight.of(b.float(), fmt)
        return PackedWeight(packed.shape, packed.pieces, packed.map_bits, branch)
