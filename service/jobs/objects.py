"""Objects of a store as answers, which begin once the store has told their length."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi.responses import StreamingResponse

from fixnorm_core.artifacts import Version
from service.jobs.files import JobFiles
from service.problems import NoResultYet

__all__ = ["stream_object"]

_BYTES_AT_ONCE = 8 * 2**20


def stream_object(files: JobFiles, url: str, *, filename: str) -> StreamingResponse:
    """An object as a download, of one version: where it is replaced, or the store fails, what arrives is cut short.

    Raises:
        NoResultYet: If it is gone.
        DataError: If the store refuses, or does not answer.
    """
    store, name = files.store_of(url)
    version = store.version(name)
    if version is None:
        raise NoResultYet(f"{url} is there no more", "Look who removes objects there")

    def pieces(version: Version) -> Iterator[bytes]:
        for start in range(0, version.size, _BYTES_AT_ONCE):
            yield store.read_version(name, version, start=start, end=min(version.size, start + _BYTES_AT_ONCE))

    headers = {"Content-Length": str(version.size), "Content-Disposition": f'attachment; filename="{filename}"'}
    return StreamingResponse(pieces(version), media_type="application/octet-stream", headers=headers)
