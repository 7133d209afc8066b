"""Labelled images, wherever they are kept, and what the trainer is given."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fixnorm_core.data.augment import Augmentation, EpochDraws, augment
from fixnorm_core.data.shares import WHOLE, Share
from fixnorm_core.errors import DataError

if TYPE_CHECKING:
    from fixnorm_core.data.pool import WorkerPool

__all__ = ["Batches", "Images", "Split", "TrainingData"]

Batches = Generator[tuple[Tensor, Tensor], None, None]
"""Images and labels; closing it ends what prepares the next ones."""


class Images(Protocol):
    """Labelled images: :class:`Split` in memory, :class:`fixnorm_core.data.streaming.StreamedSplit` in files.

    Batches are uint8 images (b, channels, side, side) and int64 labels (b,) on the device of ``labels``. What is read
    depends on the arguments alone: not on the device, nor on who reads.
    """

    @property
    def labels(self) -> Tensor:
        """int64, shape (n,)."""

    @property
    def side(self) -> int:
        """Pixels a side."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the pixels."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device, *, pool: WorkerPool | None = None) -> Images:
        """The same images for ``device``; what is not in memory is read by ``pool``, or without one by this process."""

    def numbered(self, indices: Tensor) -> Images:
        """Some of these images, labelled 0, 1, 2, ... by their place in ``indices`` (m,)."""

    def take(self, indices: Tensor) -> Tensor:
        """Some images as they are evaluated, in the order of ``indices`` (m,)."""

    def in_order(self, *, batch_size: int, share: Share = WHOLE) -> Batches:
        """All images once as they are evaluated, in order; only the last batch may be smaller.

        A share is every ``share.count``-th of these batches, from the ``share.rank``-th on.
        """

    def augmented(self, draws: EpochDraws, augmentation: Augmentation) -> Batches:
        """All images once as they are trained on."""


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images in memory.

    Attributes:
        images: uint8, shape (n, channels, side, side).
        labels: int64, shape (n,).
    """

    images: Tensor
    labels: Tensor

    @property
    def side(self) -> int:
        """Pixels a side."""
        return self.images.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the pixels."""
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device, *, pool: WorkerPool | None = None) -> Split:  # noqa: ARG002
        """The same images on ``device``; no copy where they are there already."""
        return Split(self.images.to(device), self.labels.to(device))

    def numbered(self, indices: Tensor) -> Split:
        """Some of them, with their places as labels."""
        return Split(self.images[indices], torch.arange(len(indices), device=self.labels.device))

    def take(self, indices: Tensor) -> Tensor:
        """Some of them, copied."""
        return self.images[indices]

    def in_order(self, *, batch_size: int, share: Share = WHOLE) -> Batches:
        """All of them, or every so many a batch, not copied."""
        parts = (torch.split(each, batch_size)[share.rank :: share.count] for each in (self.images, self.labels))
        yield from zip(*parts, strict=True)

    def augmented(self, draws: EpochDraws, augmentation: Augmentation) -> Batches:
        """All of them, changed on their device.

        Raises:
            DataError: For a random crop, which takes the files.
        """
        if augmentation.crop_min_area is not None:
            raise DataError(
                "random resized crops are cut out of image files, and these images are in memory at their final size",
                "Set data.storage to stream, or data.crop to none",
            )
        for draw in draws.to(self.labels.device).batches():
            images = self.images.index_select(0, draw.index)  # brackets copy byte by byte, ten times as slow
            yield augment(images, draw, augmentation), self.labels[draw.index]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything a trial may see: training and validation images, and never the test images.

    Attributes:
        classes: Names, by label.
        channels: 1 (grey) or 3 (red, green, blue).
        image_size: Pixels a side.
        train: What the weights are fitted to.
        validation: What trials are compared on.
        mean: Per channel over ``train`` (streamed: over an evenly spread part), pixel values scaled to [0, 1].
        std: Likewise.
        flip: Whether to mirror training images at random.
        shift: At most this many pixels of random shift.
        crop_min_area: Least share of a picture that a random crop keeps; None for no random crops.
        skipped: Files that were chosen for either split, cannot be read, and are left out because that was asked for.
        version: What was fetched from an object store, of which another version may come; empty for a folder.
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    train: Images
    validation: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    shift: int
    crop_min_area: float | None = None
    skipped: tuple[str, ...] = ()
    version: str = ""

    def __post_init__(self) -> None:
        """Refuses what would be trained on in silence.

        Raises:
            DataError: For pixels that are no bytes (so that none is NaN), and labels that are no class.
        """
        for name, split in (("training", self.train), ("validation", self.validation)):
            if split.dtype != torch.uint8:
                raise DataError(
                    f"the {name} images are {split.dtype}; pixels are bytes, so that none can be NaN",
                    "Give them as torch.uint8, 0 to 255",
                )
            wrong = split.labels[(split.labels < 0) | (split.labels >= len(self.classes))]
            if len(wrong):
                raise DataError(
                    f"label {int(wrong[0])} of a {name} image is not in [0, {len(self.classes)}), the classes given",
                    "Number the classes from 0 and name them all",
                )
