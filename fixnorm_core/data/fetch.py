"""Image folders in an object store: fetched once, whole, into a folder of this machine, and then read as any other.

A version of a data set is what the bucket lists of it: names, sizes, ETags. Each version has a folder of its own, which
gets its name when all of it is there, so that nobody reads half of one. The bucket is asked each time that a data set
is opened; what has changed there since is another version.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from fixnorm_core.buckets import is_url, safe_parts
from fixnorm_core.data.catalog import Origin, check_data, facts_of
from fixnorm_core.data.folder import IMAGE_SUFFIXES
from fixnorm_core.data.store import explained, open_store
from fixnorm_core.data.versions import hold, make_room, partial_of, remove_abandoned
from fixnorm_core.disk import full_disk, size_text
from fixnorm_core.errors import DataError
from fixnorm_core.reach import Reach, Roots
from fixnorm_core.spec import DataSpec
from fixnorm_core.waits import waiting_for

__all__ = ["Object", "fetched", "objects_of", "version_of"]

_AT_ONCE = 1000
"""Objects that are handed to s3fs in one call; it fetches some tens of them side by side."""

_TRIES = 3
"""Of a data set that changes while it is fetched."""

_log = logging.getLogger(__name__)


def fetched(spec: DataSpec, reach: Reach) -> tuple[DataSpec, Reach]:
    """The same data set in a folder of this machine, and what may be read of that: no more than it.

    Args:
        spec: Returned as it is, with ``reach``, where its path is no address.
        reach: What may be read; ``cache`` is where the folder will be, and stays while this process lives.

    Raises:
        OutsideRoots: If the address is out of reach.
        BucketDown: If the store does not answer.
        DataError: If there is nothing, it may not be read, it changes all the time, or a key in it is no file's name.
        OSError: If this machine's disk cannot take it.
    """
    if spec.path is None or not is_url(spec.path):
        return spec, reach
    spec = check_data(spec, reach=reach)
    assert spec.path is not None
    with explained(spec.path):
        images_only = facts_of(spec.name).origin is Origin.FOLDER
        folder = _Bucket(spec.path, open_store(spec.path), images_only).fetch(reach)
    return spec.model_copy(update={"path": str(folder)}), replace(reach, roots=Roots.at([folder]))


def version_of(spec: DataSpec, *, asked: DataSpec) -> str:
    """Which version of an address :func:`fetched` has made ``spec`` of; empty where nothing was fetched."""
    return Path(spec.path).name if spec.path is not None and spec.path != asked.path else ""


@dataclass(frozen=True, slots=True)
class Object:
    """Its name below the address, by which it becomes a file."""

    name: str
    size: int
    etag: str


class _Changed(Exception):
    """What was fetched is not what was listed."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """An address in a store that fsspec knows."""

    url: str
    store: Any
    images_only: bool

    @property
    def _place(self) -> str:
        return self.url.partition("://")[2]

    def fetch(self, reach: Reach) -> Path:
        """The folder of the version that is there now."""
        cache = Path(reach.cache) if reach.cache is not None else _own_cache()
        home = cache / sha256(self.url.encode()).hexdigest()[:16]
        for _ in range(_TRIES):
            objects = self._list()
            folder, size = home / _version(objects), sum(each.size for each in objects)
            _make(home)
            hold(folder, size=size)  # before the look, after which it could be removed
            if _is_whole(folder, objects):
                return folder
            with _alone(Path(f"{home}.lock")):
                if _is_whole(folder, objects):  # somebody else has fetched it meanwhile
                    return folder
                remove_abandoned(home)
                make_room(cache, needed=size, days=reach.cache_days, limit=reach.cache_bytes)
                try:
                    self._download(objects, folder)
                except _Changed:
                    continue
                return folder
        raise DataError(
            f"the data in {self.url} changed {_TRIES} times while they were fetched",
            "Wait until nobody writes there, or give each version of the data an address of its own",
        )

    def _list(self) -> list[Object]:
        """What there is to fetch, by name.

        Raises:
            DataError: If there is nothing, or a key cannot be a file's name below the address.
        """
        with waiting_for(self.url):
            found = sorted(self.store.find(self._place, detail=True).items())
        below = ((path, facts) for path, facts in found if path != self._place)
        listed = [(path[len(self._place) + 1 :], facts["size"], facts.get("ETag", "")) for path, facts in below]
        return objects_of(listed, url=self.url, images_only=self.images_only)

    def _download(self, objects: Sequence[Object], folder: Path) -> None:
        size = size_text(sum(each.size for each in objects))
        _log.info("fetching %d files, %s, of %s", len(objects), size, self.url)
        partial = partial_of(folder)
        try:
            _make(partial)
            for start in range(0, len(objects), _AT_ONCE):
                os.utime(partial)  # it is not abandoned
                some = objects[start : start + _AT_ONCE]
                try:
                    with waiting_for(self.url):
                        self.store.get(
                            [f"{self._place}/{each.name}" for each in some], [str(partial / each.name) for each in some]
                        )
                except FileNotFoundError as error:
                    if error.filename is not None:
                        raise
                    raise _Changed from None  # an object went away
            if not _is_whole(partial, objects) or self._list() != objects:
                raise _Changed
            if folder.exists() and not _is_whole(folder, objects):  # it was once: somebody removed files from it
                aside = partial_of(folder)
                folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
            try:
                partial.rename(folder)
            except OSError:
                if not _is_whole(folder, objects):  # else another process, which no lock held up, was sooner
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _log.info("fetched %s into %s", self.url, folder)


def objects_of(listed: Iterable[tuple[str, int, str]], *, url: str, images_only: bool) -> list[Object]:
    """What of a bucket's list is fetched.

    Args:
        listed: Names below the address, sizes, ETags.
        url: The address.
        images_only: Whether files of other kinds are passed over.

    Raises:
        DataError: If there is nothing, or a key cannot be a file's name below the address.
    """
    objects = []
    for name, size, etag in listed:
        if not name or (name.endswith("/") and not size):  # what consoles put for a folder
            continue
        parts = safe_parts(name)
        if parts is None:
            raise DataError(
                f"the key {name[:200]!r} in {url} cannot be a file's name below a folder",
                "Rename or remove that object: names have one slash between them, none is '..', none is longer "
                "than 255 bytes",
            )
        is_hidden = any(part.startswith(".") for part in parts)
        if not is_hidden and (not images_only or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES):
            objects.append(Object(name, size, str(etag)))
    if not objects:
        what = "images" if images_only else "objects"
        raise DataError(
            f"there are no {what} in {url}",
            "Give the address that <class>/<image> or train/<class>/<image> begins below",
        )
    _require_files_or_folders(objects, url)
    return objects


def _require_files_or_folders(objects: Sequence[Object], url: str) -> None:
    folders = {str(parent) for each in objects for parent in PurePosixPath(each.name).parents}
    for each in objects:
        if each.name in folders:
            raise DataError(
                f"the key {each.name[:200]!r} in {url} is an object, and others are below it",
                "Rename or remove that object: on a disk a name is a file's or a folder's",
            )


def _version(objects: Sequence[Object]) -> str:
    told = "".join(f"{each.name}\0{each.size}\0{each.etag}\0" for each in objects)
    return sha256(told.encode()).hexdigest()[:32]


def _is_whole(folder: Path, objects: Sequence[Object]) -> bool:
    """Whether all the files are there in full, which after a power failure they may not be."""
    try:
        found = ((os.lstat(folder / each.name), each.size) for each in objects)
        return all(stat.S_ISREG(facts.st_mode) and facts.st_size == size for facts, size in found)
    except OSError:
        return False


def _make(folder: Path) -> None:
    """A folder in the cache.

    Raises:
        DataError: If nothing can be written there.
        OSError: If the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if full_disk(error) is not None:
            raise
        raise DataError(
            f"what is fetched cannot be kept in {folder}: {error.strerror}",
            "Have the operator set FIXNORM_DATA_CACHE to a folder that the account of the workers may write to, on "
            "every node",
        ) from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Spares processes of this machine the same work, where the file system has locks."""
    from filelock import FileLock

    held = FileLock(lock)  # given back by the system if this process is killed
    try:
        held.acquire()
    except (OSError, NotImplementedError) as error:
        _log.warning("%s cannot be locked (%s); other processes may fetch the same files", lock, error)
        yield
        return
    try:
        yield
    finally:
        held.release()


def _own_cache() -> Path:
    """Where whoever uses this package without a server keeps what is fetched."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fixnorm-tune" / "data"
