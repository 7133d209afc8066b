"""Files that are there whole or not at all, whatever is killed when."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["discard_partial", "partial_of", "replacing"]

_PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` in one step when the block ends; an error leaves ``path`` alone.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def partial_of(path: Path) -> Path:
    """A name for a file until it is whole and takes the place of ``path``; no two are alike."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")


def discard_partial(folder: Path) -> None:
    """Removes what killed processes left half-written in ``folder``."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself last: it is an entry of the folder, not of the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
