"""Images in memory, and what the trainer is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fixnorm_core.errors import DataError

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

    def __post_init__(self) -> None:
        """Refuses what would be trained on in silence.

        Raises:
            DataError: For pixels that are no bytes (so that none is NaN), and labels that are no class.
        """
        for name, split in (("training", self.train), ("validation", self.validation)):
            if split.images.dtype != torch.uint8:
                raise DataError(
                    f"the {name} images are {split.images.dtype}; pixels are bytes, so that none can be NaN",
                    "Give them as torch.uint8, 0 to 255",
                )
            wrong = split.labels[(split.labels < 0) | (split.labels >= len(self.classes))]
            if len(wrong):
                raise DataError(
                    f"label {int(wrong[0])} of a {name} image is not in [0, {len(self.classes)}), the classes given",
                    "Number the classes from 0 and name them all",
                )
