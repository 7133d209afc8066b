"""How many images of each class a trial will have, told by names alone: no image is opened, nothing needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fixnorm_core.buckets import is_url
from fixnorm_core.data.catalog import Origin, facts_of
from fixnorm_core.data.folder import count_images, inspect_folder
from fixnorm_core.data.preview import count_names, list_names
from fixnorm_core.data.splits import Indices, Part, choose
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import DataSpec

__all__ = ["MOST_FILES", "count_by_class"]

MOST_FILES = 100_000
"""A folder of more is not counted: nobody waits for that."""

_DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
_SHIPPED: Mapping[str, Mapping[Part, tuple[int, ...]]] = {
    "digits": {Part.TRAIN: _DIGITS},
    "cifar10": {Part.TRAIN: (5000,) * 10, Part.TEST: (1000,) * 10},
    "cifar100": {Part.TRAIN: (500,) * 100, Part.TEST: (100,) * 100},
    "fashion_mnist": {Part.TRAIN: (6000,) * 10, Part.TEST: (1000,) * 10},
}
"""Images of each class, by label."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A data set as it is shipped, of which only the sizes of its classes are known."""

    classes: tuple[str, ...]
    sizes: Mapping[Part, tuple[int, ...]]

    def labels(self, part: Part) -> Indices | None:
        if part not in self.sizes:
            return None
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), self.sizes[part])


def count_by_class(spec: DataSpec, *, reach: Reach = LOCAL) -> dict[Part, dict[str, int]] | None:
    """The images of each class in each part of a data set, as a trial splits them; damaged files count.

    A bucket is asked for the names in it, with short patience.

    Args:
        spec: With an absolute path, as :func:`fixnorm_core.data.catalog.check_data` returns it.
        reach: What may be read.

    Returns:
        By part and by class (a set that is not a folder has labels for names); None where that cannot be told without
        reading the images, or there are more than :data:`MOST_FILES`.

    Raises:
        DataError: If a part has no images, or ``train_limit`` is below the number of classes; if there is no such
            bucket, it may not be read, or it is not laid out as an image folder.
        NotEquipped: If this process has no keys for a bucket.
        BucketDown: If its store does not answer.
    """
    shipped = _shipped(spec, reach)
    if shipped is None:
        return None
    found = {}
    for part in Part:
        place, indices = choose(shipped, part, spec=spec)
        labels = shipped.labels(place)
        assert labels is not None
        counts = np.bincount(labels[indices], minlength=len(shipped.classes))
        found[part] = dict(zip(shipped.classes, counts.tolist(), strict=True))
    return found


def _shipped(spec: DataSpec, reach: Reach) -> _Sizes | None:
    if spec.name in _SHIPPED:
        sizes = _SHIPPED[spec.name]
        return _Sizes(tuple(map(str, range(len(sizes[Part.TRAIN])))), sizes)
    if spec.path is not None and is_url(spec.path):
        return _of_bucket(spec)
    if spec.name != "imagefolder" or spec.path is None:
        return None
    layout = inspect_folder(Path(spec.path), roots=reach.roots)
    found, left = {}, MOST_FILES
    for part, split in ((Part.TRAIN, layout.train), (Part.VALIDATION, layout.validation), (Part.TEST, layout.test)):
        if split is None:
            continue
        counts = count_images(split, layout.classes, most=left, roots=reach.roots)
        if counts is None:
            return None
        found[part] = counts
        left -= sum(counts)
    return _Sizes(layout.classes, found)


def _of_bucket(spec: DataSpec) -> _Sizes | None:
    assert spec.path is not None
    is_folder = facts_of(spec.name).origin is Origin.FOLDER
    names = list_names(spec.path, images_only=is_folder, most=MOST_FILES)
    if names is None or not is_folder:  # what is there is a factory's to read
        return None
    return _Sizes(*count_names(names, url=spec.path))
