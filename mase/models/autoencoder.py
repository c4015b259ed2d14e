"""A fully connected autoencoder that finds anomalies by how badly it reconstructs them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Size


@MODELS.add("autoencoder")
def autoencoder(sizes: Annotated[Sequence[Size], Field(max_length=1024)] = (640, 128, 128, 128, 128, 8)) -> nn.Module:
    """Build an encoder of these sizes and its mirror image: ``[batch, ...]``, flattened, to ``[batch, sizes[0]]``.

    Args:
        sizes: features of the input, of each hidden layer, and of the narrowest one.

    Source: MLPerf Tiny, anomaly detection, whose sizes are the default: 640 values of a spectrogram.
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ConfigError(f"model autoencoder: sizes {list(sizes)}; allowed are two or more positive numbers")
    path = (*sizes, *reversed(sizes[:-1]))
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i in range(1, len(path)):
        last = i == len(path) - 1
        layers[f"fc{i}"] = nn.Linear(path[i - 1], path[i], bias=last)  # the norm has its own shift
        if not last:
            layers |= {f"norm{i}": nn.BatchNorm1d(path[i]), f"relu{i}": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers))
