"""What a method of post-training quantization is: a step on one block of a model after the other (docs/ptq.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mase.calib.edges import Edge
from mase.calib.statistics import Statistics
from mase.formats.packed import PackedWeight
from mase.graph import Graph
from mase.registry import Registry


@dataclass(frozen=True, eq=False)
class Layer:
    """Hold one matrix of weights of a block, as a method sees it.

    Args:
        path: of the layer, such as ``model.layers.3.mlp.down_proj``; an expert of a fused weight has ``[5]`` behind it.
        weight: float32 ``[outputs, inputs]``, after all folds before this step.
        seen: of its input, in the stream of the quantized blocks before. expert: it is one of several experts.
    """

    path: str
    weight: Tensor
    seen: Statistics = field(default_factory=Statistics)
    expert: bool = False

    def output_error(self, found: Tensor) -> float:
        """Return ``E |x (found - weight)^T|^2``, the mean over tokens of the squared output error; needs ``gram``."""
        error = (found - self.weight).to(torch.float64)
        return float(((error @ self.seen.autocorrelation(self.path)) * error).sum())


class Block(Protocol):
    """One of the repeated blocks of a model while its steps run; a step changes it in place."""

    name: str
    graph: Graph  # in float, after all folds so far; inputs and outputs are those of the block
    ties: Sequence[Sequence[str]]  # paths of layers that must have the same format, such as query, key and value

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        """Return the layers that are quantized, in order of execution, with the statistics that are wanted."""
        ...

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        """Return the block's inputs in the stream of the quantized blocks before, one entry a sample."""
        ...

    def targets(self) -> Sequence[Tensor]:
        """Return what the float block gives for the float stream, one entry a sample."""
        ...

    def packed(self, path: str) -> PackedWeight | None:
        """Return what an earlier step wrote for a layer."""
        ...

    def write(self, path: str, weight: PackedWeight) -> None:
        """Give a layer its quantized weights; ``graph`` stays in float."""
        ...

    def round(self, edges: Sequence[Edge]) -> None:
        """Round edges of the block's graph; what was seen so far is seen anew when it is asked for."""
        ...

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Replace float tensors of the block's graph by key; what was seen so far is seen anew when it is asked for."""
        ...


class Method(ABC):
    """A step. Each subclass is a frozen dataclass whose fields are its configuration, in a file of its name."""

    needs: ClassVar[tuple[str, ...]] = ()  # sums over the layers' inputs, of SUMS
    blockwise: ClassVar[bool] = False  # reads the samples and the targets of a block
    folds: ClassVar[bool] = False  # changes float tensors alone: it runs before all steps that quantize
    rounds_inputs: ClassVar[bool] = False  # rounds what layers read: no fold may come after it

    @property
    def calibrates(self) -> bool:
        """Whether the step needs calibration data."""
        return bool(self.needs) or self.blockwise

    @abstractmethod
    def run(self, block: Block) -> None:
        """Do the step on one block."""


class Quantizer(Method):
    """A step that gives each layer quantized weights, from the layer alone."""

    @abstractmethod
    def layer(self, layer: Layer) -> PackedWeight:
        """Return the quantized weights of a layer."""

    def run(self, block: Block) -> None:
        for layer in block.layers(self.needs):
            block.write(layer.path, self.layer(layer))


METHODS: Registry[type[Method]] = Registry("method", "passes.ptq")
