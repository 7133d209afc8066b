"""Opens the images of a data set: for training, and, apart from that, one split for an evaluation.

Small sets are decoded into memory, large ones stay in their files and are read batch by batch. Either gives the same
pixels on a CPU; mean and standard deviation of a streamed set come from 2,048 of its images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fixnorm_core.data.catalog import facts_of
from fixnorm_core.data.fetch import fetched, version_of
from fixnorm_core.data.sources import Source, open_source
from fixnorm_core.data.splits import Part, Place, choose
from fixnorm_core.data.streaming import StreamedSplit
from fixnorm_core.data.types import Images, Split, TrainingData
from fixnorm_core.errors import DataError
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import DataSpec

__all__ = [
    "MEMORY_LIMIT",
    "STATISTICS_IMAGES",
    "check_test_split",
    "load_test_split",
    "load_training_data",
    "load_validation_split",
    "log_skipped",
]

MEMORY_LIMIT = 8 * 2**30
"""Bytes that the images of a trial may take in memory, one byte per pixel and channel."""

STATISTICS_IMAGES = 2048
"""So many images of a streamed set give its mean and standard deviation: evenly spread, and so over all classes."""

_STATISTICS_PIXELS = 2**22
_NAMED = 5

_log = logging.getLogger(__name__)


def load_training_data(spec: DataSpec, *, reach: Reach = LOCAL) -> TrainingData:
    """Reads or opens the training and the validation images, and nothing of the test images.

    Args:
        spec: With an absolute path, as :func:`fixnorm_core.data.catalog.check_data` returns it. What is in an object
            store is fetched first.
        reach: What may be read.

    Raises:
        DataError: If the data set cannot be had, read, split or held in memory, or ``shift`` is not below its side.
    """
    asked = spec
    spec, reach = fetched(spec, reach)
    source = open_source(spec, reach=reach)
    chosen = [_chosen(source, part, spec=spec) for part in (Part.TRAIN, Part.VALIDATION)]
    places = [place for place, _ in chosen]
    side = spec.image_size or source.side(places)
    streamed = _is_streamed(spec, source, places, side=side)
    train, validation = (_opened(source, place, side=side, streamed=streamed, reach=reach) for place in places)
    mean, std = _statistics(_sample(source, places[0], side=side) if isinstance(train, StreamedSplit) else train.images)
    facts = facts_of(spec.name)
    shift = facts.shift if spec.shift is None else spec.shift
    if shift >= side:
        raise DataError(f"shift is {shift} pixels on images of {side} pixels a side", f"Set it to {side - 1} or less")
    how = "streamed from files" if streamed else "in memory"
    _log.info("data set %s: %d training and %d validation images, %s", spec.name, len(train), len(validation), how)
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
        crop_min_area=spec.crop_min_area if spec.crop == "random_resized" else None,
        skipped=tuple(name for _, names in chosen for name in names),
        version=version_of(spec, asked=asked),
    )


def load_validation_split(spec: DataSpec, *, image_size: int, reach: Reach = LOCAL) -> tuple[tuple[str, ...], Images]:
    """Reads or opens the validation images alone: those of :func:`load_training_data`, bit for bit.

    Args:
        spec: As there.
        image_size: Pixels a side, ``TrainingData.image_size`` of the training run.
        reach: What may be read.

    Returns:
        The class names and the images.

    Raises:
        DataError: If they cannot be read.
    """
    return _load(spec, Part.VALIDATION, side=image_size, reach=reach)


def load_test_split(spec: DataSpec, *, image_size: int, reach: Reach = LOCAL) -> tuple[tuple[str, ...], Images]:
    """Reads or opens the test images alone, which :func:`load_training_data` never touches.

    Args:
        spec: As there.
        image_size: Pixels a side, ``TrainingData.image_size`` of the training run.
        reach: What may be read.

    Returns:
        The class names and the images.

    Raises:
        DataError: If they cannot be read.
    """
    return _load(spec, Part.TEST, side=image_size, reach=reach)


def check_test_split(spec: DataSpec, *, reach: Reach = LOCAL) -> None:
    """Makes sure that the test images can be read, so that a night's training does not end at a broken one.

    Nothing of them is kept, looked at or returned. Damaged ones that are to be skipped are logged.

    Args:
        spec: As for :func:`load_training_data`.
        reach: What may be read.

    Raises:
        DataError: If one cannot be read, or they cannot be held in memory.
    """
    spec, reach = fetched(spec, reach)
    source = open_source(spec, reach=reach)
    place, skipped = _chosen(source, Part.TEST, spec=spec)
    _is_streamed(spec, source, [place], side=spec.image_size or source.side([place]))
    if spec.skip_corrupt:
        log_skipped(skipped, what="test images")
    else:
        source.check(place)


def log_skipped(names: Sequence[str], *, what: str) -> None:
    """Logs how many files were left out as damaged, and the first few of them; nothing where there are none."""
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        _log.warning("%d damaged %s are skipped: %s%s", len(names), what, ", ".join(names[:_NAMED]), more)


def _load(spec: DataSpec, part: Part, *, side: int, reach: Reach) -> tuple[tuple[str, ...], Images]:
    spec, reach = fetched(spec, reach)
    source = open_source(spec, reach=reach)
    place, _ = _chosen(source, part, spec=spec)
    streamed = _is_streamed(spec, source, [place], side=side)
    return source.classes, _opened(source, place, side=side, streamed=streamed, reach=reach)


def _chosen(source: Source, part: Part, *, spec: DataSpec) -> tuple[Place, tuple[str, ...]]:
    """The images of a part, and the files left out of it as damaged.

    They are left out of what was chosen, after limits and splits, so that no other image moves because of them.
    """
    place = choose(source, part, spec=spec)
    if not spec.skip_corrupt or not (corrupt := source.corrupt(place)):
        return place, ()
    shipped, indices = place
    files = source.files(place)
    kept = np.delete(indices, corrupt)
    _require_classes(source, (shipped, kept), before=place, part=part)
    return (shipped, kept), tuple(str(files[index]) for index in corrupt)


def _require_classes(source: Source, place: Place, *, before: Place, part: Part) -> None:
    """Every class that training had must still be there; of the other splits, anything must."""
    left, had = (set(_labels(source, where).tolist()) for where in (place, before))
    lost = sorted(had - left) if part is Part.TRAIN or not left else []
    if lost:
        raise DataError(
            f"all {part.name.lower()} images of class {source.classes[lost[0]]!r} are damaged",
            "Replace them; data.skip_corrupt leaves out images, not classes",
        )


def _opened(source: Source, place: Place, *, side: int, streamed: bool, reach: Reach) -> Split | StreamedSplit:
    labels = torch.from_numpy(_labels(source, place))
    if streamed:
        return StreamedSplit(source.files(place), labels, side, roots=reach.roots)
    return Split(source.read(place, side=side), labels)


def _labels(source: Source, place: Place) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    part, indices = place
    labels = source.labels(part)
    if labels is None:
        raise ValueError(f"no labels of {part.name}")
    return labels[indices]


def _is_streamed(spec: DataSpec, source: Source, places: Sequence[Place], *, side: int) -> bool:
    """Whether these images stay in their files.

    Raises:
        DataError: If they cannot, and do not fit in memory.
    """
    if spec.storage == "stream" or spec.crop == "random_resized":
        return True
    images = sum(len(indices) for _, indices in places)
    needed = images * source.channels * side * side
    if needed <= MEMORY_LIMIT:
        return False
    if spec.storage == "auto" and source.files(places[0]):
        return True
    raise DataError(
        f"{images:,} images of {side}x{side} pixels need {needed / 2**30:.1f} GiB of memory, above the limit of "
        f"{MEMORY_LIMIT / 2**30:.0f} GiB",
        "Lower data.image_size, or set data.train_limit, data.validation_limit and data.test_limit"
        + (", or data.storage to auto" if source.files(places[0]) else ""),
    )


def _sample(source: Source, place: Place, *, side: int) -> Tensor:
    part, indices = place
    count = min(len(indices), STATISTICS_IMAGES)
    return source.read((part, indices[np.arange(count) * len(indices) // count]), side=side)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels scaled to [0, 1].

    Exact, from how often each of the 256 levels occurs, in memory of a few megabytes.
    """
    channels, levels = images.shape[1], torch.arange(256)
    count = images.numel() // channels
    seen = torch.zeros(channels, 256, dtype=torch.int64)
    for chunk in torch.split(images, max(1, _STATISTICS_PIXELS // images[0].numel())):
        for channel, pixels in zip(seen, chunk.unbind(dim=1), strict=True):
            channel += torch.bincount(pixels.flatten(), minlength=256)
    total, squares = seen @ levels, seen @ levels**2
    mean = total.double() / count
    std = (squares.double() / count - mean**2).clamp(min=1.0).sqrt()  # at least one grey level: a constant channel
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
