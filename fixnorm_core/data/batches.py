"""Training batches from images in memory: order and augmentation are functions of (seed, epoch) alone.

All draws come from one CPU generator, so a GPU sees the same batches as a CPU; the pixels never leave their device.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fixnorm_core.data.mixing import RandAugment
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.shifts import shifted
from fixnorm_core.data.types import Split

__all__ = ["Augmentation", "Normalization", "steps_per_epoch", "training_batches"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is changed at random in training images.

    Attributes:
        flip: Mirror every second image, on average.
        shift: Move by up to this many pixels in each direction, the border filled by reflection.
        randaugment: Random operations after that.
    """

    flip: bool
    shift: int
    randaugment: RandAugment | None = None


class Normalization:
    """From pixels to what a network is fed: ``(x / 255 - mean) / std`` per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes mean and standard deviation per channel, of pixels scaled to [0, 1]."""
        spread = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * spread)).float().view(1, -1, 1, 1)
        self._offset = (-torch.tensor(mean, dtype=torch.float64) / spread).float().view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises uint8 images of shape (n, channels, h, w) to float32."""
        return torch.addcmul(self._offset, images.float(), self._scale)

    def to(self, device: torch.device) -> Normalization:
        """The same on ``device``."""
        moved = copy.copy(self)
        moved._scale, moved._offset = self._scale.to(device), self._offset.to(device)
        return moved


def steps_per_epoch(images: int, *, batch_size: int) -> int:
    """Optimizer steps in one pass: as few as batches of at most ``batch_size`` allow."""
    return -(-images // batch_size)


def training_batches(
    split: Split, *, batch_size: int, augmentation: Augmentation, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields every image of one epoch once, in random order, augmented.

    The images are shared out evenly: batch sizes differ by one at most, so that no small last batch (whose batch
    statistics would be poor, or undefined for a single image) is left over.

    Args:
        split: The training images, on any device.
        batch_size: Images in a batch at most.
        augmentation: What to change at random.
        seed: With ``epoch``, decides everything.
        epoch: Counted from 1.

    Yields:
        uint8 images (b, channels, side, side) and int64 labels (b,), on the split's device.
    """
    count, device = len(split), split.labels.device
    random = torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
    order = torch.randperm(count, generator=random).to(device)
    flips = torch.randint(2, (count,), generator=random).to(device)
    shifts = torch.randint(-augmentation.shift, augmentation.shift + 1, (count, 2), generator=random).to(device)
    steps = steps_per_epoch(count, batch_size=batch_size)
    draws = zip(*(draw.tensor_split(steps) for draw in (order, flips, shifts)), strict=True)
    for step, (index, flip, shift) in enumerate(draws):
        images = split.images.index_select(0, index)  # an indexing in brackets copies byte by byte, ten times as slow
        if augmentation.flip or augmentation.shift:
            flip = flip if augmentation.flip else torch.zeros_like(flip)
            images = shifted(images, shift=shift, flip=flip, at_most=augmentation.shift)
        if augmentation.randaugment is not None:
            images = augmentation.randaugment(images, seed=derive_seed(seed, f"randaugment {epoch}", step))
        yield images, split.labels[index]
