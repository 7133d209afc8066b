"""Files of trials in an object store, for servers and nodes that share no folder. No torch, and fsspec only once asked.

An object is there whole or not at all: a store makes it visible when all of it has come. What can be cut off is a
fetch, so its length is compared. No object is ever appended to or locked; whoever must not overwrite what another
writes has an address of its own (docs/adr/0030-artifacts.md).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fixnorm_core.data.store import BucketDown, Pace, as_a_store, explained, open_store
from fixnorm_core.errors import DataError
from fixnorm_core.files import partial_of
from fixnorm_core.waits import waiting_for

__all__ = ["ArtifactStore", "Artifacts", "Damaged", "NotThere", "Version", "attempt_folder", "code_name", "log_name"]

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_AT_ONCE = 1000
"""Objects that a store removes in one request."""

_PART_BYTES, _PARTS_AT_ONCE = 8 * 2**20, 4
"""Of a file that is uploaded in parts, each of which is one request."""

_LARGEST_COPY_BYTES = 5 * 2**30
"""That a store makes in one request."""

_MARK = ".fixnorm-tune"

_SHA256 = "sha256"
"""Of an object's metadata."""

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Where a trial's files are kept when server and nodes share no folder.

    Attributes:
        url: The canonical address below which the files of all jobs are.
        folder: The trial's below that.
        attempt: The number of this attempt among the trial's. What it writes lies under that number, where none of the
            others writes; of them it reads and removes only what has a lower one.
        scratch: Below it trials train in a folder of their own on their node; None for one in the account's cache.
        patience_seconds: How long a store that does not answer is asked again, before the attempt ends and rests.
    """

    url: str
    folder: str
    attempt: int
    scratch: str | None = None
    patience_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Version:
    """What an object holds at one time.

    Attributes:
        size: Bytes.
        tag: The store's entity tag, another for other content (RFC 9110, section 8.8.3).
        sha256: Of what was put there, in hexadecimal; None of what is not put as a file, or by an older release.
    """

    size: int
    tag: str
    sha256: str | None = None


class NotThere(DataError):
    """An object that is needed and gone, which waiting does not bring back."""


class Damaged(DataError):
    """An object that holds something else than was put there, at another try too."""


def attempt_folder(attempt: int) -> str:
    """What an attempt writes to, below its trial's folder; they sort by number."""
    return f"attempt-{attempt:06d}"


def log_name(attempt_id: str, *, rank: int = 0) -> str:
    """The log of a rank of an attempt, below its trial's folder."""
    return f"logs/{attempt_id}{f'.rank-{rank}' if rank else ''}.log"


def code_name(digest: str) -> str:
    """A Python file that came with a job, below the address of all."""
    return f"code/{digest}.py"


@dataclass(slots=True)
class ArtifactStore:
    """An address in an object store, and what is done to the objects below it.

    Every method raises :class:`~fixnorm_core.data.store.BucketDown` if the store does not answer, and
    :class:`~fixnorm_core.errors.DataError` if it refuses, in words that repeat no key.

    Attributes:
        url: Its canonical address.
        patience_seconds: How long a store that does not answer is asked again.
        pace: How long the answer to one request is waited for.
        excused: Whether refusals are told as :class:`BucketDown` too: no job has named this address, and its operator
            can mend what the store refuses.
        sleep: Waits for so many seconds.
        clock: Seconds that only grow.
    """

    url: str
    patience_seconds: float = 0.0
    pace: Pace = Pace.USUAL
    excused: bool = False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _opened: Any = field(default=None, init=False)

    def find(self, below: str = "") -> Mapping[str, int]:
        """The names of all objects below a name, with their bytes."""
        place = self._place(below)

        def ask() -> dict[str, int]:
            found = self._store.find(place, detail=True)
            start = len(self._place("")) + 1
            return {path[start:]: int(facts["size"]) for path, facts in found.items() if path.startswith(f"{place}/")}

        return self._ask(ask)

    def put(self, path: Path, name: str) -> None:
        """Uploads a file that nobody changes, and its digest beside it; returns once the store tells its length.

        Raises:
            OSError: If the file cannot be read.
        """
        size, digest = path.stat().st_size, _digest(path)

        def ask() -> None:
            self._store.put_file(
                str(path),
                self._place(name),
                chunksize=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
                Metadata={_SHA256: digest},
            )
            self._require(name, size)

        self._ask(ask)

    def write(self, name: str, content: bytes) -> None:
        """Uploads some bytes, as :meth:`put` does."""

        def ask() -> None:
            self._store.pipe_file(self._place(name), content)
            self._require(name, len(content))

        self._ask(ask)

    def get(self, name: str, path: Path) -> bool:
        """Fetches an object into a file that is there in full or not at all; False if there is no such object.

        Raises:
            Damaged: If what arrives, twice, is not what was put there.
            OSError: If the file cannot be written.
        """
        try:
            return self._get(name, path)
        except Damaged:  # perhaps on the way
            return self._get(name, path)

    def _get(self, name: str, path: Path) -> bool:
        def ask() -> bool:
            version = self._version(name)
            if version is None:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            half = partial_of(path)
            try:
                try:
                    self._store.get_file(self._place(name), str(half))
                except FlexibleChecksumError:  # botocore's, of what came in one request
                    raise self._damaged(name) from None
                except FileNotFoundError as error:
                    if error.filename is not None:
                        raise
                    return False  # it went away meanwhile
                if half.stat().st_size != version.size:
                    raise BucketDown(f"{self.url}/{name} was changed or cut off while it was fetched", _AGAIN)
                self.require_same(name, version, _digest(half) if version.sha256 is not None else None)
                half.replace(path)
            finally:
                half.unlink(missing_ok=True)
            return True

        from botocore.exceptions import FlexibleChecksumError

        return self._ask(ask)

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> bytes | None:
        """The bytes of an object from ``start`` on; None if there is no such object."""

        def ask() -> bytes | None:
            size = self._size(name)
            if size is None:
                return None
            until = size if end is None else min(size, end)
            if start >= until:
                return b""
            content = bytes(self._store.cat_file(self._place(name), start=start, end=until))
            if len(content) != until - start:
                raise BucketDown(f"{self.url}/{name} was changed or cut off while it was fetched", _AGAIN)
            return content

        return self._ask(ask)

    def version(self, name: str) -> Version | None:
        """What an object holds now; None if there is none."""
        return self._ask(lambda: self._version(name))

    def read_version(self, name: str, version: Version, *, start: int, end: int) -> bytes:
        """Some bytes of one version of an object: ``end - start`` of them.

        Raises:
            Damaged: If they are all of it, and not what was put there.
            DataError: If the object holds something else by now, or is gone.
        """

        def ask() -> bytes:
            try:
                content = bytes(sync(self._store.loop, self._read_if, name, version.tag, start, end))
            except FlexibleChecksumError:  # of all of it, which came in one request
                raise self._damaged(name) from None
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and _status(error) != _PRECONDITION_FAILED:
                    raise
                raise DataError(
                    f"{self.url}/{name} was replaced or removed while it was read", "Read it anew"
                ) from None
            if len(content) != end - start:
                raise BucketDown(f"{self.url}/{name} was cut off while it was fetched", _AGAIN)
            return content

        from botocore.exceptions import FlexibleChecksumError
        from fsspec.asyn import sync

        return self._ask(ask)

    def require_same(self, name: str, version: Version, sha256: str | None) -> None:
        """Makes sure that what was fetched is what was put there, as far as that was told.

        Raises:
            Damaged: If it is not.
        """
        if version.sha256 is not None and sha256 != version.sha256:
            raise self._damaged(name)

    def size(self, name: str) -> int | None:
        """The bytes of an object; None if there is none."""
        return self._ask(lambda: self._size(name))

    def copy(self, name: str, to: str) -> None:
        """Has the store copy an object.

        Raises:
            NotThere: If there is none.
        """

        def ask() -> None:
            size = self._size(name)
            if size is None:
                raise NotThere(f"there is no {self.url}/{name}", "Look who removes objects there")
            bucket, key = self._parts(to)
            source_bucket, source_key = self._parts(name)
            if size < _LARGEST_COPY_BYTES:
                source = {"Bucket": source_bucket, "Key": source_key}
                self._store.call_s3("copy_object", Bucket=bucket, Key=key, CopySource=source)
            else:
                self._store.cp_file(self._place(name), self._place(to))
            self._require(to, size)

        self._ask(ask)

    def remove(self, names: Collection[str]) -> None:
        """Removes objects; those that are not there are no trouble."""
        paths = sorted(names)
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            self._ask(partial(self._delete, some))

    def check(self) -> None:
        """Makes sure that objects can be written, listed and removed here."""
        self.write(f"{_MARK}/check", b"fixnorm-tune can write here\n")
        self.find(_MARK)
        self.remove([f"{_MARK}/check"])

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = open_store(self.url, pace=self.pace)
        return self._opened

    def _place(self, name: str) -> str:
        place = self.url.partition("://")[2]
        return f"{place}/{name}" if name else place

    def _parts(self, name: str) -> tuple[str, str]:
        bucket, _, key = self._place(name).partition("/")
        return bucket, key

    def _size(self, name: str) -> int | None:
        found = self._version(name)
        return found.size if found is not None else None

    def _version(self, name: str) -> Version | None:
        bucket, key = self._parts(name)
        try:
            facts = self._store.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        more = {key.lower(): value for key, value in facts.get("Metadata", {}).items()}  # as some stores spell them
        return Version(int(facts["ContentLength"]), str(facts["ETag"]), more.get(_SHA256))

    async def _read_if(self, name: str, tag: str, start: int, end: int) -> bytes:
        bucket, key = self._parts(name)
        wanted = {"Bucket": bucket, "Key": key, "IfMatch": tag, "Range": f"bytes={start}-{end - 1}"}
        answer = await self._store._call_s3("get_object", **wanted)
        async with answer["Body"] as body:
            return bytes(await body.read())

    def _damaged(self, name: str) -> Damaged:
        return Damaged(f"{self.url}/{name} is damaged: its checksum is not that of what was put there", "Remove it")

    def _delete(self, names: Collection[str]) -> None:
        bucket, keys = self._parts("")[0], [self._parts(name)[1] for name in names]
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            with explained(self.url, writes=True):
                if not self._store.call_s3("delete_objects", Bucket=bucket, Delete=wanted).get("Errors"):
                    return
        except BucketDown:
            raise
        except DataError:  # not all stores take many names in one request, or take it as botocore sends it
            pass
        for key in keys:
            self._store.call_s3("delete_object", Bucket=bucket, Key=key)

    def _require(self, name: str, size: int) -> None:
        if (found := self._size(name)) != size:
            raise BucketDown(f"{self.url}/{name} has {found} bytes in the store, and {size} were sent", _AGAIN)

    def _ask(self, ask: Callable[[], _Answer]) -> _Answer:
        with waiting_for(self.url):
            return self._ask_again(ask)

    def _ask_again(self, ask: Callable[[], _Answer]) -> _Answer:
        until, pause = self.clock() + self.patience_seconds, _FIRST_PAUSE_SECONDS
        while True:
            try:
                with explained(self.url, writes=True), as_a_store(self.url):
                    return ask()
            except BucketDown as error:
                if self.clock() + pause > until:
                    raise
                _log.warning("%s; asked again in %g s", error.rule, pause)
            except (NotThere, Damaged):
                raise
            except DataError as error:
                if not self.excused:
                    raise
                raise BucketDown(error.rule, error.way_out) from None
            self.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(error: Exception) -> int | None:
    """What a store has answered, of an error that s3fs has made of it."""
    answer = getattr(error.__cause__, "response", {})
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, Mapping) else None


_PRECONDITION_FAILED = 412

_AGAIN = "It is tried again by itself; if it happens often, look who else writes there"
