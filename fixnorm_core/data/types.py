"""Images in memory, and what the trainer is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Split", "TrainingData"]


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images.

    Attributes:
        images: uint8, shape (n, channels, side, side).
        labels: int64, shape (n,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same images on ``device``; no copy where they are there already."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything a trial may see: training and validation images, and never the test images.

    Attributes:
        classes: Names, by label.
        channels: 1 (grey) or 3 (red, green, blue).
        image_size: Pixels a side.
        train: What the weights are fitted to.
        validation: What trials are compared on.
        mean: Per channel over ``train``, pixel values scaled to [0, 1].
        std: Likewise.
        flip: Whether to mirror training images at random.
        shift: At most this many pixels of random shift.
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    train: Split
    validation: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    shift: int
