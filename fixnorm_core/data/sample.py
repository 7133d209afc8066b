"""A look at some images of a folder, which tells of damaged ones before a trial meets them. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fixnorm_core.data.folder import inspect_folder, list_images
from fixnorm_core.reach import LOCAL, OutsideRoots, Reach, Roots

__all__ = ["MOST_IMAGES", "Sample", "look_at_some"]

MOST_IMAGES = 256
"""So many are looked at, at even distances over all classes and splits."""

_SECONDS = 2.0
_MOST_PIXELS = 32_000_000
"""Of a JPEG that is read to its end: a progressive one takes some bytes of memory for each."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a folder's images.

    Attributes:
        looked_at: How many.
        damaged: The files of those that hold no image, or not all of one.
    """

    looked_at: int
    damaged: tuple[Path, ...]


def look_at_some(folder: Path, *, reach: Reach = LOCAL, clock: Callable[[], float] = time.monotonic) -> Sample:
    """Looks at :data:`MOST_IMAGES` images of a folder at most, for two seconds at most.

    A JPEG is read to its end, at an eighth of its size; of a PNG the check sums are compared; of others the header is
    read. So a trial, which decodes every image, may still find one that is damaged.

    Raises:
        DataError: If it is no image folder.
        OutsideRoots: If a link in it leads out of reach.
    """
    layout = inspect_folder(folder, roots=reach.roots)
    splits = [split for split in (layout.train, layout.validation, layout.test) if split is not None]
    paths = [path for split in splits for path, _ in list_images(split, layout.classes, roots=reach.roots)]
    count = min(MOST_IMAGES, len(paths))
    begun, looked_at, damaged = clock(), 0, []
    for index in range(count):
        if clock() - begun > _SECONDS:
            break
        path = paths[index * len(paths) // count]
        looked_at += 1
        if _is_damaged(path, reach.roots):
            damaged.append(path)
    return Sample(looked_at, tuple(damaged))


def _is_damaged(path: Path, roots: Roots) -> bool:
    from PIL import Image

    try:
        with path.open("rb") as file:
            roots.check_open(file, path)
            with Image.open(file) as image:
                if image.format != "JPEG":
                    image.verify()
                elif image.width * image.height <= _MOST_PIXELS:
                    image.draft("L", (1, 1))
                    image.load()
    except (MemoryError, OutsideRoots):
        raise
    except Exception:  # Pillow's decoders raise whatever a broken file drives them into
        return True
    return False
