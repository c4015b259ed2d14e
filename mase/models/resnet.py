"""Residual networks for small images: ResNet-8, ResNet-20 and their kin."""

from __future__ import annotations

from torch import Tensor, nn

from mase.errors import ConfigError
from mase.models.base import MODELS
from mase.options import Depth, Size


class Block(nn.Module):
    """Two 3x3 convolutions around which the input goes, through a 1x1 convolution where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        result: Tensor = self.relu2(y + self.around(x))
        return result


class ResNet(nn.Module):
    """A convolution, three stages of blocks that halve the image and double the channels, mean and classifier."""

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        widths = [width, *(width * 2**stage for stage in range(3) for _ in range(blocks))]
        strides = [2 if i % blocks == 0 and i else 1 for i in range(3 * blocks)]
        pairs = zip(widths, widths[1:], strides, strict=False)
        self.blocks = nn.Sequential(*(Block(inputs, outputs, stride) for inputs, outputs, stride in pairs))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(self.blocks(x))))
        return logits


@MODELS.add("resnet")
def resnet(depth: Depth = 8, width: Size = 16, channels: Size = 3, classes: Size = 10) -> nn.Module:
    """Build a ResNet of ``6 n + 2`` layers for images such as 32x32: 8 (n = 1), 14, 20 (n = 3), 32.

    Args:
        depth: convolutions on the longest path, and the classifier. width: channels of the first stage.

    Source: K. He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2, with 1x1 convolutions where
    the shape changes; depth 8 as in MLPerf Tiny.
    """
    if depth % 6 != 2 or depth < 8:
        raise ConfigError(f"model resnet: depth {depth}; allowed are 8, 14, 20, 26 ...: 6 n + 2")
    return ResNet(depth // 6, width, channels, classes)
