"""What a job has kept as answers: files, and objects of a store, which begin once their length is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

from fastapi.responses import StreamingResponse

from fixnorm_core.artifacts import ArtifactStore, Damaged, Version
from service.jobs.files import JobFiles
from service.jobs.folders import moved, open_own
from service.problems import Gone, NoResultYet

__all__ = ["read_file", "read_object", "stream_file", "stream_object"]

_BYTES_AT_ONCE = 8 * 2**20


def read_file(files: JobFiles, place: str, *, job_id: str) -> bytes:
    """A file that a job's result names.

    Raises:
        Gone: If it is there no more.
    """
    path, below = _find(files, place, job_id)
    try:
        with open_own(path, below=below) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise _gone(path, job_id) from None


def stream_file(files: JobFiles, place: str, *, job_id: str, filename: str) -> StreamingResponse:
    """Likewise as a download. It is opened twice, so that no answer that nobody reads keeps it open.

    Raises:
        Gone: If it is there no more.
    """
    path, below = _find(files, place, job_id)
    try:
        with open_own(path, below=below) as file:
            found = os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        raise _gone(path, job_id) from None

    def pieces() -> Iterator[bytes]:
        with open_own(path, below=below) as file:
            if not os.path.samestat(found, os.fstat(file.fileno())):  # what arrives is cut short
                raise _gone(path, job_id)
            while piece := file.read(_BYTES_AT_ONCE):
                yield piece

    return _download(pieces(), found.st_size, filename)


def read_object(files: JobFiles, url: str, *, job_id: str) -> str:
    """A text that a job's result names in a store.

    Raises:
        Gone: If it is there no more.
        DataError: If the store refuses, or does not answer.
    """
    if (text := files.read(url)) is None:
        raise _gone(url, job_id)
    return text


def stream_object(files: JobFiles, url: str, *, job_id: str, filename: str) -> StreamingResponse:
    """An object as a download, of one version: where it is replaced or damaged, or the store fails, it is cut short.

    Raises:
        Gone: If it is there no more.
        NoResultYet: If it is damaged as far as is known before the answer begins.
        DataError: If the store refuses, or does not answer.
    """
    store, name = files.store_of(url)
    version = store.version(name)
    if version is None:
        raise _gone(url, job_id)
    pieces = _pieces(store, name, version)
    try:
        first = next(pieces, b"")  # what is wrong already is an answer of its own
    except Damaged as error:
        raise NoResultYet(error.rule, "Look who changes what is there, or retry or extend the job for others") from None
    return _download(chain([first], pieces), version.size, filename)


def _pieces(store: ArtifactStore, name: str, version: Version) -> Iterator[bytes]:
    seen = sha256()
    for start in range(0, version.size, _BYTES_AT_ONCE):
        end = min(version.size, start + _BYTES_AT_ONCE)
        piece = store.read_version(name, version, start=start, end=end)
        seen.update(piece)
        if end == version.size:  # nobody gets a whole file that is another
            store.require_same(name, version, seen.hexdigest())
        yield piece


def _download(pieces: Iterator[bytes], size: int, filename: str) -> StreamingResponse:
    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{filename}"'}
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


def _find(files: JobFiles, place: str, job_id: str) -> tuple[Path, Path]:
    """A job's file and the state folder that it is in.

    That is this server's, though the path was made below another: it was restored or is mounted elsewhere. Of servers
    that have a folder each, another's is read where it is.
    """
    own = moved(place, state_dir=files.state_dir, job_id=job_id)
    is_elsewhere = os.path.exists(place)  # noqa: PTH110  # which is no error where it may not be looked at
    if own is not None and (own.exists() or not is_elsewhere):
        return own, files.state_dir
    return Path(place), Path(place.partition(f"/jobs/{job_id}/")[0] or "/")


def _gone(place: str | Path, job_id: str) -> Gone:
    return Gone(
        f"{job_id} names {place}, which is there no more",
        f"Restore it from a backup; `fixnorm-tune report {job_id} -o report.html` needs no file, and "
        f"`fixnorm-tune extend {job_id}` with a trial more writes new ones",
    )
