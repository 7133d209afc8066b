"""Objects of a store as answers, which begin once the store has told their length."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi.responses import StreamingResponse

from service.jobs.files import JobFiles
from service.problems import NoResultYet

__all__ = ["stream_object"]

_BYTES_AT_ONCE = 8 * 2**20


def stream_object(files: JobFiles, url: str, *, filename: str) -> StreamingResponse:
    """An object as a download. Where the store fails half-way, what arrives is shorter than was announced.

    Raises:
        NoResultYet: If it is gone.
        DataError: If the store refuses, or does not answer.
    """
    store, name = files.store_of(url)
    size = store.size(name)
    if size is None:
        raise NoResultYet(f"{url} is there no more", "Look who removes objects there")

    def pieces(size: int) -> Iterator[bytes]:
        for start in range(0, size, _BYTES_AT_ONCE):
            yield store.read(name, start=start, end=min(size, start + _BYTES_AT_ONCE)) or b""

    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{filename}"'}
    return StreamingResponse(pieces(size), media_type="application/octet-stream", headers=headers)
