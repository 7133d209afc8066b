"""Which image goes where: seeded, stratified by class, and a function of the labels and ``split_seed`` alone.

The test images are chosen first, then the validation images from what is left, so that nothing that is tuned later
(a limit, another validation fraction) can move an image into or out of the test split.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec

__all__ = ["Indices", "Part", "Place", "Shipped", "choose"]

Indices = NDArray[np.int64]


class Part(IntEnum):
    """A part of a data set. The values are part of the seeds: changing one changes every split."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


class Shipped(Protocol):
    """A data set as it is shipped."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""

    def labels(self, part: Part) -> Indices | None:
        """Labels of a shipped part, shape (n,); None where the set has no such part. There is always a TRAIN."""


Place = tuple[Part, Indices]
"""Images as a shipped part and sorted indices into it."""


def choose(shipped: Shipped, part: Part, *, spec: DataSpec) -> Place:
    """The images that make up one part of the data set of ``spec``.

    Raises:
        DataError: If nothing is left for the part, or ``train_limit`` is below the number of classes.
    """
    place, indices = _whole(shipped, part, spec=spec)
    labels = _labels(shipped, place)[indices]
    limit = {Part.TRAIN: spec.train_limit, Part.VALIDATION: spec.validation_limit, Part.TEST: spec.test_limit}[part]
    if part is Part.TRAIN and limit is not None and limit < len(shipped.classes):
        raise DataError(
            f"train_limit is {limit}, below the {len(shipped.classes)} classes of data set {spec.name!r}",
            f"Raise it to {len(shipped.classes)} or more, so that every class can be learned",
        )
    if not len(indices):
        raise DataError(
            f"data set {spec.name!r} leaves no images for its {part.name.lower()} split",
            f"Add images (a class needs three to be in all splits), or a {part.name.lower()} folder",
        )
    if limit is not None and limit < len(indices):
        counts = _apportion(limit, np.bincount(labels, minlength=len(shipped.classes)))
        indices = indices[_draw(labels, counts, seed=(spec.split_seed, 1, part))]
    return place, indices


def _whole(shipped: Shipped, part: Part, *, spec: DataSpec) -> Place:
    """A part before its limit is applied."""
    if part is not Part.TRAIN and (labels := shipped.labels(part)) is not None:
        return part, np.arange(len(labels))
    labels = _labels(shipped, Part.TRAIN)
    pool = np.arange(len(labels))
    for held_out, fraction in ((Part.TEST, spec.test_fraction), (Part.VALIDATION, spec.validation_fraction)):
        if shipped.labels(held_out) is not None:
            continue
        chosen = _draw(labels[pool], _share(labels[pool], fraction), seed=(spec.split_seed, 0, held_out))
        if held_out is part:
            return Part.TRAIN, pool[chosen]
        pool = np.delete(pool, chosen)
    return Part.TRAIN, pool


def _labels(shipped: Shipped, part: Part) -> Indices:
    labels = shipped.labels(part)
    if labels is None:
        raise ValueError(f"no labels of {part.name}")
    return labels


def _share(labels: Indices, fraction: float) -> Indices:
    """How many of each class to hold out: the fraction, but at least one and never all."""
    sizes = np.bincount(labels)
    wanted = np.maximum(np.rint(sizes * fraction).astype(np.int64), 1)
    return np.asarray(np.minimum(wanted, np.maximum(sizes - 1, 0)), dtype=np.int64)


def _apportion(total: int, sizes: Indices) -> Indices:
    """Shares ``total`` over classes in proportion to ``sizes``: one each where that fits, then largest remainders."""
    floor = np.minimum(sizes, 1) if total >= np.count_nonzero(sizes) else np.zeros_like(sizes)
    rest = sizes - floor
    exact = (total - floor.sum()) * rest / max(rest.sum(), 1)
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(floor.sum()) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return np.asarray(floor + counts, dtype=np.int64)


def _draw(labels: Indices, counts: Indices, *, seed: tuple[int, int, int]) -> Indices:
    """Draws ``counts[c]`` positions of every class c, sorted. A smaller count draws a subset of a larger one's."""
    # RandomState's stream is frozen for good (NEP 19); a Generator's may change with numpy, and then stored weights
    # would be tested on images they were trained on.
    random = np.random.RandomState(np.array([part % 2**32 for part in seed], dtype=np.uint32))
    drawn = [random.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))
