"""A small MobileNet: depthwise convolutions between pointwise ones, narrow residuals."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from mase.models.base import MODELS
from mase.options import Factor, Size

STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 2))  # expansion, channels, blocks, first stride
STEM, LAST = 16, 128  # channels of the first and of the last convolution


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> dict[str, nn.Module]:
    """Return a convolution without bias that keeps the image's size at stride 1, and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return {"conv": conv, "norm": nn.BatchNorm2d(outputs)}


def active(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return :func:`convolution` with ReLU6."""
    return nn.Sequential(OrderedDict(convolution(inputs, outputs, size, stride, groups) | {"relu": nn.ReLU6()}))


class Inverted(nn.Module):
    """Widen by a pointwise convolution, filter each channel alone, narrow linearly; add the input where shapes fit."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand: nn.Module = active(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = active(wide, wide, 3, stride, groups=wide)
        self.project = nn.Sequential(OrderedDict(convolution(wide, outputs, 1)))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        result: Tensor = x + y if self.residual else y
        return result


@MODELS.add("mobilenet")
def mobilenet(width: Factor = 1.0, channels: Size = 3, classes: Size = 10) -> nn.Module:
    """Build seven inverted residual blocks for images such as 32x32.

    Args:
        width: factor of all numbers of channels, which are rounded to multiples of 8.

    Source: M. Sandler et al., MobileNetV2, 2018, table 1 and figure 3; fewer stages, and no stride in the first.
    """
    stem, last = scaled(STEM, width), scaled(LAST, width)
    layers: dict[str, nn.Module] = {"stem": active(channels, stem, 3)}
    inputs = stem
    for expansion, wide, blocks, stride in STAGES:
        for i in range(blocks):
            outputs = scaled(wide, width)
            layers[f"block{len(layers)}"] = Inverted(inputs, outputs, expansion, stride if i == 0 else 1)
            inputs = outputs
    layers["last"] = active(inputs, last, 1)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(last, classes)}
    return nn.Sequential(OrderedDict(layers))


def scaled(channels: int, width: float) -> int:
    """Return the multiple of 8 that is nearest to ``channels * width``, 8 at least."""
    return max(8, int(channels * width / 8 + 0.5) * 8)
