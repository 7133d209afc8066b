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
from service.jobs.folders import open_own
from service.problems import NoResultYet

__all__ = ["read_file", "stream_file", "stream_object"]

_BYTES_AT_ONCE = 8 * 2**20


def read_file(place: str, *, job_id: str) -> bytes:
    """A file that a job's result names.

    Raises:
        NoResultYet: If it is gone.
    """
    try:
        with open_own(Path(place), below=_state_dir(place, job_id)) as file:
            return file.read()
    except FileNotFoundError:
        raise _gone(place) from None


def stream_file(place: str, *, job_id: str, filename: str) -> StreamingResponse:
    """Likewise as a download. It is opened twice, so that no answer that nobody reads keeps it open.

    Raises:
        NoResultYet: If it is gone.
    """
    path, below = Path(place), _state_dir(place, job_id)
    try:
        with open_own(path, below=below) as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        raise _gone(place) from None

    def pieces() -> Iterator[bytes]:
        with open_own(path, below=below) as file:
            if not os.path.samestat(found, os.fstat(file.fileno())):  # what arrives is cut short
                raise _gone(place)
            while piece := file.read(_BYTES_AT_ONCE):
                yield piece

    return _download(pieces(), found.st_size, filename)


def stream_object(files: JobFiles, url: str, *, filename: str) -> StreamingResponse:
    """An object as a download, of one version: where it is replaced or damaged, or the store fails, it is cut short.

    Raises:
        NoResultYet: If it is gone, or damaged as far as is known before the answer begins.
        DataError: If the store refuses, or does not answer.
    """
    store, name = files.store_of(url)
    version = store.version(name)
    if version is None:
        raise _gone(url)
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


def _gone(place: str) -> NoResultYet:
    return NoResultYet(f"{place} is there no more", "Look who removes what is there")


def _state_dir(place: str, job_id: str) -> Path:
    """The folder that a path of a job's file was made below, by a server that may have had another than this one."""
    return Path(place.partition(f"/jobs/{job_id}/")[0] or "/")
