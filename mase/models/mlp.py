"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Size


@MODELS.add("mlp")
def mlp(sizes: Annotated[Sequence[Size], Field(max_length=1024)] = (64, 64, 32, 10), bias: bool = True) -> nn.Module:
    """Build flatten, then linear layers ``fc1``, ``fc2``, ... with ReLU between them.

    Args:
        sizes: features of the input, of each hidden layer, and of the output.
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ConfigError(f"model mlp: sizes {list(sizes)}; allowed are two or more positive numbers")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i in range(1, len(sizes)):
        layers[f"fc{i}"] = nn.Linear(sizes[i - 1], sizes[i], bias=bias)
        if i < len(sizes) - 1:
            layers[f"relu{i}"] = nn.ReLU()
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model
