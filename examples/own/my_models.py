"""A model and a data set of one's own; docs/own-model.md says how a server comes to know them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fixnorm_core.data.own import OwnData


def build(num_classes: int, *, width: int = 8) -> nn.Module:
    """A small network for images of 3 channels: logits (n, num_classes).

    No layer in front of a normalization has a bias, so that FixNorm has weights to hold.
    """

    def block(inputs: int, outputs: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    body = nn.Sequential(block(3, width), block(width, 2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(2 * width, num_classes))


def stripes(*, images: int = 300, side: int = 12) -> OwnData:
    """Noisy stripes: lying, standing or slanting. Torch's generator is seeded, so they are the same every time."""
    labels = torch.arange(images) % 3
    return OwnData(train=(_drawn(labels, side), labels), classes=("lying", "standing", "slanting"))


def _drawn(labels: Tensor, side: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    patterns = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).float()
    noisy = patterns[labels] * 120 + torch.rand(len(labels), side, side) * 120
    return noisy.to(torch.uint8).unsqueeze(1).repeat(1, 3, 1, 1)
