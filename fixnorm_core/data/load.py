"""Reads the images of a data set into memory: for training, and, apart from that, one split for an evaluation."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fixnorm_core.data.catalog import facts_of
from fixnorm_core.data.sources import Source, open_source
from fixnorm_core.data.splits import Part, Place, choose
from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec

__all__ = ["MEMORY_LIMIT", "check_test_split", "load_test_split", "load_training_data", "load_validation_split"]

MEMORY_LIMIT = 8 * 2**30
"""Bytes that the images of a trial may take in memory, one byte per pixel and channel."""

_STATISTICS_CHUNK = 4096

_log = logging.getLogger(__name__)


def load_training_data(spec: DataSpec) -> TrainingData:
    """Reads the training and the validation images, and nothing of the test images.

    Args:
        spec: With an absolute path, as :func:`fixnorm_core.data.catalog.check_data` returns it.

    Raises:
        DataError: If the data set cannot be had, read, split or held in memory, or ``shift`` is not below its side.
    """
    source = open_source(spec)
    places = [choose(source, part, spec=spec) for part in (Part.TRAIN, Part.VALIDATION)]
    side = spec.image_size or source.side(places)
    _require_memory(sum(len(indices) for _, indices in places), source.channels, side)
    train, validation = (_read(source, place, side=side) for place in places)
    mean, std = _statistics(train.images)
    facts = facts_of(spec.name)
    shift = facts.shift if spec.shift is None else spec.shift
    if shift >= side:
        raise DataError(f"shift is {shift} pixels on images of {side} pixels a side", f"Set it to {side - 1} or less")
    _log.info("data set %s: %d training and %d validation images", spec.name, len(train), len(validation))
    return TrainingData(
        classes=source.classes,
        channels=source.channels,
        image_size=side,
        train=train,
        validation=validation,
        mean=mean,
        std=std,
        flip=facts.flip if spec.flip is None else spec.flip,
        shift=shift,
    )


def load_validation_split(spec: DataSpec, *, image_size: int) -> tuple[tuple[str, ...], Split]:
    """Reads the validation images alone: those of :func:`load_training_data`, bit for bit.

    Args:
        spec: As there.
        image_size: Pixels a side, ``TrainingData.image_size`` of the training run.

    Returns:
        The class names and the images.

    Raises:
        DataError: If they cannot be read.
    """
    return _load(spec, Part.VALIDATION, side=image_size)


def load_test_split(spec: DataSpec, *, image_size: int) -> tuple[tuple[str, ...], Split]:
    """Reads the test images alone, which :func:`load_training_data` never opens.

    Args:
        spec: As there.
        image_size: Pixels a side, ``TrainingData.image_size`` of the training run.

    Returns:
        The class names and the images.

    Raises:
        DataError: If they cannot be read.
    """
    return _load(spec, Part.TEST, side=image_size)


def check_test_split(spec: DataSpec) -> None:
    """Makes sure that the test images can be read, so that a night's training does not end at a broken one.

    Nothing of them is kept, looked at or returned.

    Args:
        spec: As for :func:`load_training_data`.

    Raises:
        DataError: If one cannot be read, or they cannot be held in memory.
    """
    source = open_source(spec)
    place = choose(source, Part.TEST, spec=spec)
    _require_memory(len(place[1]), source.channels, spec.image_size or source.side([place]))
    source.check(place)


def _load(spec: DataSpec, part: Part, *, side: int) -> tuple[tuple[str, ...], Split]:
    source = open_source(spec)
    place = choose(source, part, spec=spec)
    _require_memory(len(place[1]), source.channels, side)
    return source.classes, _read(source, place, side=side)


def _read(source: Source, place: Place, *, side: int) -> Split:
    part, indices = place
    labels = source.labels(part)
    if labels is None:
        raise ValueError(f"no labels of {part.name}")
    return Split(source.read(place, side=side), torch.from_numpy(labels[indices]))


def _require_memory(images: int, channels: int, side: int) -> None:
    needed = images * channels * side * side
    if needed > MEMORY_LIMIT:
        raise DataError(
            f"{images:,} images of {side}x{side} pixels need {needed / 2**30:.1f} GiB of memory, above the limit of "
            f"{MEMORY_LIMIT / 2**30:.0f} GiB",
            "Lower data.image_size, or set data.train_limit, data.validation_limit and data.test_limit",
        )


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels scaled to [0, 1]; exact integer sums, so order is no matter."""
    count = images.numel() // images.shape[1]
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for chunk in torch.split(images, _STATISTICS_CHUNK):
        pixels = chunk.to(torch.int64)
        total += pixels.sum(dim=(0, 2, 3))
        squares += (pixels * pixels).sum(dim=(0, 2, 3))
    mean = total.double() / count
    std = (squares.double() / count - mean**2).clamp(min=1.0).sqrt()  # at least one grey level: a constant channel
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
