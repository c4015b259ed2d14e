"""A residual network whose layers share a selective state: the outputs of the layers are a sequence, read as by S6."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mase.models.base import MODELS
from mase.options import Depth, Size


class Layer(nn.Module):
    """A convolutional block that feeds the state, and is corrected by it."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.delta, self.softplus = nn.Linear(width, width), nn.Softplus()
        self.enter = nn.Linear(width, state)
        self.leave = nn.Linear(state, 1)

    def forward(self, x: Tensor, h: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        seen = self.pool(y).flatten(1)  # [batch, width]
        delta = self.softplus(self.delta(seen)).unsqueeze(-1)
        h = torch.exp(delta * decay) * h + delta * seen.unsqueeze(-1) * self.enter(seen).unsqueeze(1)
        return self.relu2(x + y + self.leave(h).unsqueeze(-1)), h


class S6LA(nn.Module):
    """Stem, layers with one state ``[batch, width, state]`` across all of them, mean, classifier."""

    def __init__(self, channels: int, width: int, state: int, layers: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.rate = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(width, 1))
        self.start = nn.Parameter(torch.zeros(1, width, state))
        self.layers = nn.ModuleList(Layer(width, state) for _ in range(layers))
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x, h, decay = self.stem(x), self.start, -torch.exp(self.rate)
        for layer in self.layers:
            x, h = layer(x, h, decay)
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


@MODELS.add("s6la")
def s6la(
    channels: Size = 3,
    width: Size = 16,
    state: Size = 8,
    layers: Depth = 4,
    classes: Size = 10,
) -> nn.Module:
    """Build a network for images such as 32x32 that carries a state across its layers.

    Layer l sees ``z``, the mean of its features: ``h[l] = exp(delta A) h[l-1] + delta z B``, with ``delta`` and ``B``
    linear in ``z``; what it reads from ``h[l]`` is added to all its pixels.

    Args:
        width: channels of every layer. state: numbers that are kept for each channel.

    Source: K. Liu et al., From Layers to States (S6LA), 2025, the additive form for convolutions; sizes are our own.
    """
    return S6LA(channels, width, state, layers, classes)
