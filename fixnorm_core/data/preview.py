"""What is in a bucket, by the names that it lists: nothing is fetched, and nobody waits for long. No torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from fixnorm_core.data.fetch import objects_of
from fixnorm_core.data.folder import FolderLayout, inspect_folder
from fixnorm_core.data.splits import Part
from fixnorm_core.data.store import Pace, explained, open_store
from fixnorm_core.errors import DataError

__all__ = ["count_names", "list_names"]

_SECONDS = 8.0
"""After which no further page of names is asked for."""

_NO_KEY = "?versionId=.png"
"""A file's name that no object has: :func:`fixnorm_core.buckets.safe_parts` refuses it."""


def list_names(
    url: str, *, images_only: bool, most: int, clock: Callable[[], float] = time.monotonic
) -> list[str] | None:
    """The names below an address that a worker would fetch; None if they are more than ``most``, or take too long.

    Raises:
        NotEquipped: If this process has no keys, or not the extra ``s3``.
        BucketDown: If the store does not answer.
        DataError: If there is nothing, it may not be read, or a key in it is no file's name.
    """
    bucket, _, key = url.partition("://")[2].partition("/")
    prefix = f"{key}/" if key else ""
    begun, listed = clock(), []
    more: dict[str, str] = {}
    with explained(url):
        store = open_store(url, pace=Pace.QUICK)
        while True:
            page = store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            for each in page.get("Contents", ()):
                listed.append((each["Key"][len(prefix) :], each["Size"], each.get("ETag", "")))
            if not page.get("IsTruncated"):
                break
            if len(listed) > most or clock() - begun > _SECONDS:
                return None
            more = {"ContinuationToken": page["NextContinuationToken"]}
    found = [each.name for each in objects_of(listed, url=url, images_only=images_only)]
    return found if len(found) <= most else None


def count_names(names: Sequence[str], *, url: str) -> tuple[tuple[str, ...], dict[Part, tuple[int, ...]]]:
    """The classes of an image folder of these names, and the images of each in the parts that it ships.

    Raises:
        DataError: As :func:`~fixnorm_core.data.folder.inspect_folder`, whose rules are these.
    """
    with _laid_out(names, url) as (root, layout):
        splits = {Part.TRAIN: layout.train, Part.VALIDATION: layout.validation, Part.TEST: layout.test}
        tops = {part: split.relative_to(root).parts for part, split in splits.items() if split is not None}
    parts = [name.split("/") for name in names]
    found = {}
    for part, top in tops.items():
        deep = len(top)
        counts = Counter(each[deep] for each in parts if len(each) > deep + 1 and tuple(each[:deep]) == top)
        found[part] = tuple(counts[label] for label in layout.classes)
    return layout.classes, found


@contextmanager
def _laid_out(names: Sequence[str], url: str) -> Iterator[tuple[Path, FolderLayout]]:
    """Folders as they would be after a fetch, two levels deep, with one empty file where there is any image."""
    with TemporaryDirectory(prefix="fixnorm-names-") as place:
        root = Path(place)
        for folder in {PurePosixPath(name).parts[:-1][:2] for name in names}:
            root.joinpath(*folder).mkdir(parents=True, exist_ok=True)
            root.joinpath(*folder, _NO_KEY).touch()
        try:
            yield root, inspect_folder(root)
        except DataError as error:
            told = (text.replace(place, url) for text in (error.rule, error.way_out))
            raise type(error)(*told) from None
