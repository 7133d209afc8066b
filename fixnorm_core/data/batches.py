"""Training batches: order and augmentation are functions of (seed, epoch) alone, wherever the images are kept.

All draws come from one CPU generator, so a GPU sees the same batches as a CPU. Pixels that are in memory never leave
their device; those in files are read and changed by other processes (:mod:`fixnorm_core.data.streaming`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fixnorm_core.data.augment import Augmentation, draw_epoch
from fixnorm_core.data.shares import WHOLE, Share
from fixnorm_core.data.types import Batches, Images

__all__ = ["Augmentation", "Normalization", "steps_per_epoch", "training_batches"]


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
    split: Images, *, batch_size: int, augmentation: Augmentation, seed: int, epoch: int, share: Share = WHOLE
) -> Batches:
    """Yields every image of one epoch once, in random order, augmented.

    The images are shared out evenly: batch sizes differ by one at most, so that no small last batch (whose batch
    statistics would be poor, or undefined for a single image) is left over.

    Args:
        split: The training images, on any device.
        batch_size: Images in a batch at most.
        augmentation: What to change at random.
        seed: With ``epoch``, decides everything.
        epoch: Counted from 1.
        share: What is wanted of each batch, whose other images then are another process's.

    Returns:
        uint8 images (b, channels, side, side) and int64 labels (b,), on the split's device.
    """
    steps = steps_per_epoch(len(split), batch_size=batch_size)
    draws = draw_epoch(len(split), steps=steps, shift=augmentation.shift, seed=seed, epoch=epoch, share=share)
    return split.augmented(draws, augmentation)
