"""What is changed at random in training images, and what chance has decided about an epoch of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fixnorm_core.data.mixing import RandAugment
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.shares import WHOLE, Share
from fixnorm_core.data.shifts import shifted

__all__ = ["Augmentation", "BatchDraws", "EpochDraws", "augment", "draw_epoch"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is changed at random in training images.

    Attributes:
        flip: Mirror every second image, on average.
        shift: Move by up to this many pixels in each direction, the border filled by reflection.
        randaugment: Random operations after that.
        crop_min_area: Before all that, cut a rectangle of at least this share of the picture out of the file and bring
            it to the size asked for; None takes the centre. Only for images that are read from files batch by batch.
    """

    flip: bool
    shift: int
    randaugment: RandAugment | None = None
    crop_min_area: float | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.flip or self.shift or self.randaugment or self.crop_min_area is not None)


@dataclass(frozen=True, slots=True)
class BatchDraws:
    """What chance has decided about one batch.

    Attributes:
        index: Which images, int64 of shape (b,).
        flip: 1 where to mirror, int64 of shape (b,).
        shift: Rows and columns, int64 of shape (b, 2).
        seed: The run's.
        epoch: Counted from 1.
        step: Counted from 0 in the epoch.
        places: Where in the batch they are if they are a part of it, int64 of shape (b,); None for all of it.
        size: Of the whole batch.
    """

    index: Tensor
    flip: Tensor
    shift: Tensor
    seed: int
    epoch: int
    step: int
    places: Tensor | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class EpochDraws:
    """What chance has decided about an epoch.

    Attributes:
        order: A permutation of the images, int64 of shape (n,).
        flips: Likewise 1 where to mirror the image of that place.
        shifts: Rows and columns, int64 of shape (n, 2).
        steps: In how many batches, whose sizes differ by one at most.
        seed: The run's.
        epoch: Counted from 1.
        share: What is wanted of each batch.
    """

    order: Tensor
    flips: Tensor
    shifts: Tensor
    steps: int
    seed: int
    epoch: int
    share: Share = WHOLE

    def to(self, device: torch.device) -> EpochDraws:
        """The same on ``device``."""
        return replace(self, order=self.order.to(device), flips=self.flips.to(device), shifts=self.shifts.to(device))

    def batches(self) -> Iterator[BatchDraws]:
        """What it says about each batch, or about the share of it."""
        parts = (draw.tensor_split(self.steps) for draw in (self.order, self.flips, self.shifts))
        for step, (index, flip, shift) in enumerate(zip(*parts, strict=True)):
            size, places = len(index), None
            if self.share.count > 1:
                places = self.share.places(size).to(index.device)
                index, flip, shift = index[places], flip[places], shift[places]
            yield BatchDraws(index, flip, shift, seed=self.seed, epoch=self.epoch, step=step, places=places, size=size)


def draw_epoch(count: int, *, steps: int, shift: int, seed: int, epoch: int, share: Share = WHOLE) -> EpochDraws:
    """Decides about an epoch of ``count`` images: a function of its arguments, drawn on the CPU whatever the device.

    What is decided about an image does not depend on ``share``.
    """
    random = torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
    order = torch.randperm(count, generator=random)
    flips = torch.randint(2, (count,), generator=random)
    shifts = torch.randint(-shift, shift + 1, (count, 2), generator=random)
    return EpochDraws(order, flips, shifts, steps=steps, seed=seed, epoch=epoch, share=share)


def augment(images: Tensor, draws: BatchDraws, augmentation: Augmentation) -> Tensor:
    """Changes a batch as drawn, but for the crop, which takes the file.

    Args:
        images: uint8 (b, channels, side, side), on the device of ``draws``.
        draws: What was decided about it.
        augmentation: What to change.
    """
    if augmentation.flip or augmentation.shift:
        flip = draws.flip if augmentation.flip else torch.zeros_like(draws.flip)
        if augmentation.shift:
            images = shifted(images, shift=draws.shift, flip=flip, at_most=augmentation.shift)
        else:
            images = _mirrored(images, flip=flip)
    if augmentation.randaugment is not None:
        seed = derive_seed(draws.seed, f"randaugment {draws.epoch}", draws.step)
        images = augmentation.randaugment(images, seed=seed, places=draws.places, size=draws.size)
    return images


def _mirrored(images: Tensor, *, flip: Tensor) -> Tensor:
    """Mirrors where ``flip`` is 1: whole rows are copied, which takes half the time of choosing pixel by pixel."""
    both = torch.cat([images, images.flip(3)])
    return both.index_select(0, torch.add(torch.arange(len(flip), device=flip.device), flip, alpha=len(flip)))
