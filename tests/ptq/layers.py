"""Layers to quantize in tests: weights, and inputs whose features depend on each other."""

from __future__ import annotations

import torch
from torch import Tensor

from mase.calib.statistics import SUMS, Statistics
from passes.ptq.base import Layer


def tokens(inputs: int, count: int = 512, seed: int = 0) -> Tensor:
    """Return correlated tokens, a few features of which are far larger than the others."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, inputs // 4, generator=draw) @ torch.randn(inputs // 4, inputs, generator=draw)
    x = mixed / (inputs // 4) ** 0.5 + 0.3 * torch.randn(count, inputs, generator=draw)
    x[:, ::17] *= 6
    return x


def layer(outputs: int = 24, inputs: int = 80, x: Tensor | None = None, seed: int = 0) -> Layer:
    """Return a layer with all statistics of its inputs."""
    x = tokens(inputs, seed=seed) if x is None else x
    seen = Statistics()
    seen.add(x, SUMS)
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed + 100)) * 0.1
    return Layer("block.linear", weight, seen)


FORMATS = (
    "int4g16a",
    "int3g32f_fp16",
    "int2g16r_fp16",
    "int4c",
    "mxint4b16",
    "mxfp4",
    "nvfp4",
    "bfp4",
    "nf4b16",
    "bl4",
)
