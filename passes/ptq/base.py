"""What a method of post-training quantization is: a step on one block of a model after the other (docs/ptq.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from mase.calib.edges import Edge
from mase.calib.layers import Place
from mase.calib.statistics import Statistics
from mase.errors import ConfigError
from mase.formats.packed import PackedWeight
from mase.graph import Graph
from mase.registry import Registry

Stage = Literal["", "fold", "quantizer", "branch", "tuning"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Hold one matrix of weights of a block, as a method sees it.

    Args:
        path: of the layer, such as ``model.layers.3.mlp.down_proj``; an expert of a fused weight has ``[5]`` behind it.
        weight: float32 ``[outputs, inputs]``, after all folds before this step.
        seen: of its input, in the stream of the quantized blocks before. expert: it is one of several experts.
        target: what errors are measured against, where a step has lowered the ranges of ``weight``; None: ``weight``.
    """

    path: str
    weight: Tensor
    seen: Statistics = field(default_factory=Statistics)
    expert: bool = False
    target: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """The weights that quantized ones stand for."""
        return self.weight if self.target is None else self.target

    def output_error(self, found: Tensor) -> float:
        """Return ``E |x (found - wanted)^T|^2``, the mean over tokens of the squared output error; needs ``gram``."""
        error = (found - self.wanted).to(torch.float64)
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

    def lower(self, path: str, weight: Tensor) -> None:
        """Show later steps other weights of a layer, of smaller ranges; ``graph`` and errors keep the float ones.

        A fold of these weights ends that.
        """
        ...


class Method(ABC):
    """A step. Each subclass is a frozen dataclass whose fields are its configuration, in a file of its name."""

    needs: ClassVar[tuple[str, ...]] = ()  # sums over the layers' inputs, of SUMS
    blockwise: ClassVar[bool] = False  # reads the samples and the targets of a block
    stage: ClassVar[Stage] = ""  # where in a recipe it stands; "": anywhere
    branches: ClassVar[bool] = False  # gives layers a low-rank branch
    rounds_inputs: ClassVar[bool] = False  # rounds what layers read: no fold may come after it

    @property
    def calibrates(self) -> bool:
        """Whether the step needs calibration data."""
        return bool(self.needs) or self.blockwise

    @property
    def folds(self) -> bool:
        """Whether the step changes float tensors alone: it runs before all steps that quantize."""
        return self.stage == "fold"

    @property
    def lowers(self) -> bool:
        """Whether the step lowers ranges of weights, so that no fold may come after it."""
        return False

    def check(self, layers: Sequence[Place]) -> None:
        """Refuse a model that the step is not for, before any work is done.

        Args:
            layers: of the whole model, all that get this step.

        Raises:
            ConfigError: says which layer, what was found, and what is allowed.
        """
        expert = next((place for place in layers if place.expert is not None), None)
        if self.branches and expert is not None:
            raise ConfigError(
                f"layer {expert.path}: is an expert, and {name_of(self)} gives a low-rank branch; allowed on layers "
                "that are not experts: give these a recipe of their own under overrides"
            )

    def extra_bits(self, shape: tuple[int, int]) -> int:
        """Return the bits that the step stores of a layer beside its quantized weights, such as those of a branch."""
        return 0

    @abstractmethod
    def run(self, block: Block) -> None:
        """Do the step on one block."""


class Quantizer(Method):
    """A step that gives each layer quantized weights, from the layer alone."""

    stage: ClassVar[Stage] = "quantizer"

    @abstractmethod
    def layer(self, layer: Layer) -> PackedWeight:
        """Return the quantized weights of a layer."""

    def run(self, block: Block) -> None:
        for layer in block.layers(self.needs):
            block.write(layer.path, self.layer(layer))


METHODS: Registry[type[Method]] = Registry("method", "passes.ptq")


def name_of(method: Method) -> str:
    """Return the name of a method in a recipe."""
    cls = type(method)
    return next((name for name, other in METHODS.items() if other is cls), cls.__name__.lower())
