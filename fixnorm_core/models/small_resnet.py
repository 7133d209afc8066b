"""A small residual network for CPUs: three stages, global average pooling, a linear head.

After He et al. 2016 (arXiv 1512.03385, §4.2, the CIFAR-10 networks), with projection shortcuts. Every convolution has
no bias and is followed by a normalization, so every one of them is scale-invariant.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SmallResNet"]


class SmallResNet(nn.Module):
    """Residual network of three stages with ``width``, ``2 * width`` and ``4 * width`` channels.

    The second and third stage halve the resolution, so 8 x 8 images end as 2 x 2 features.

    Args:
        classes: Number of logits.
        channels: Colour channels of an image.
        width: Channels of the first stage.
        blocks: Residual blocks per stage, of two convolutions each.
        norm: ``"batch"``, or ``"group"`` (up to 8 groups) for batches too small for BatchNorm.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: int = 16,
        blocks: int = 1,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, width), _norm(width, kind=norm), nn.ReLU())
        stages: list[nn.Module] = []
        previous = width
        for stage in range(3):
            current = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_Block(previous, current, stride=stride, norm=norm))
                previous = current
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(previous, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, classes), of images of shape (N, channels, height, width)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv(inputs, outputs, stride=stride),
            _norm(outputs, kind=norm),
            nn.ReLU(),
            _conv(outputs, outputs),
            _norm(outputs, kind=norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, kernel=1, stride=stride), _norm(outputs, kind=norm))

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.residual(features) + self.shortcut(features))


def _conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _norm(channels: int, *, kind: Literal["batch", "group"]) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)
