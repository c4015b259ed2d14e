"""DS-CNN: a depthwise separable network that spots spoken key words."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mase.models.base import MODELS
from mase.options import Depth, Size


@MODELS.add("ds_cnn")
def ds_cnn(width: Size = 64, blocks: Depth = 4, classes: Size = 12) -> nn.Module:
    """Build a network for ``[batch, 1, 49, 10]``: 49 frames of 10 cepstral coefficients, a second of speech.

    Args:
        width: channels of every convolution. blocks: pairs of a depthwise and a pointwise convolution.

    Source: Y. Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, 2017, DS-CNN S; as in MLPerf Tiny.
    """
    first = nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1), bias=False)  # leaves 25 x 5
    layers: dict[str, nn.Module] = {"conv": first, "norm": nn.BatchNorm2d(width), "relu": nn.ReLU()}
    for i in range(1, blocks + 1):
        layers |= {
            f"depthwise{i}": nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            f"depthwise{i}_norm": nn.BatchNorm2d(width),
            f"depthwise{i}_relu": nn.ReLU(),
            f"pointwise{i}": nn.Conv2d(width, width, 1, bias=False),
            f"pointwise{i}_norm": nn.BatchNorm2d(width),
            f"pointwise{i}_relu": nn.ReLU(),
        }
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(width, classes)}
    return nn.Sequential(OrderedDict(layers))
