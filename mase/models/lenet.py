"""A small convolutional network after LeNet-5."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Size


@MODELS.add("lenet")
def lenet(channels: Size = 1, size: Size = 28, classes: Size = 10) -> nn.Module:
    """Build two convolutions with pooling and three linear layers, for images ``[batch, channels, size, size]``.

    Args:
        size: of the square images; 28 gives the layer sizes of the original, 61,706 parameters.

    Source: Y. LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section II.B; with ReLU and
    maximum pooling for its squashing and averages.
    """
    side = (size // 2 - 4) // 2  # padding keeps the first size; the second convolution takes 4
    if side < 1:
        raise ConfigError(f"model lenet: size {size}; allowed is at least 12")
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, 6, 5, padding=2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 16, 5),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(16 * side * side, 120),
        "relu3": nn.ReLU(),
        "fc2": nn.Linear(120, 84),
        "relu4": nn.ReLU(),
        "fc3": nn.Linear(84, classes),
    }
    return nn.Sequential(OrderedDict(layers))
