"""A full disk: how it is told from other failures, and what is said of it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["causes_of", "free_bytes", "full_disk", "nearest_existing", "no_space_at", "size_text"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def full_disk(error: BaseException) -> OSError | None:
    """The refusal of a full disk, or of a used-up quota, behind an error; None when there is none.

    It need not be the error itself: ``torch.save`` raises a RuntimeError while the writer's OSError passes through it.
    """
    return next((cause for cause in causes_of(error) if isinstance(cause, OSError) and cause.errno in _FULL), None)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or while handling, the last one first."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the disk of ``path``, or of its nearest parent that is there.

    Raises:
        OSError: If the disk cannot be asked.
    """
    return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    """A path, or its nearest parent that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def no_space_at(path: Path, *, needed: int | None = None) -> str:
    """Says of the disk of ``path`` that it is full, how much is free on it, and how much is needed where that is known.

    Args:
        path: What could not be written, or its folder.
        needed: Bytes of a file like the one that could not be written.
    """
    try:
        free = f"{size_text(free_bytes(path))} free"
    except OSError:  # gone, or taken away; that it was full is known all the same
        free = "and how much is free cannot be told"
    wanted = f", {size_text(needed)} needed" if needed is not None else ""
    return f"no space left on the disk of {path} ({free}{wanted})"


def size_text(size: int) -> str:
    """Bytes for a person: 3.2 MiB."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
