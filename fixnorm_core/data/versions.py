"""The versions of data sets that a machine keeps of object stores: which are in use, and which go to make room.

Each version has a file beside its address' folder, on which every process that has opened it holds a shared lock, given
back by the system however the process ends. Its time is that of the version's last use; it holds the version's size.
Who removes a version has that file to itself, so none goes that a living process reads, on any node whose file system
has locks; where there are none, none is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fixnorm_core.disk import size_text

__all__ = ["hold", "make_room", "partial_of", "remove_abandoned"]

_ABANDONED_SECONDS = 3600.0
"""For so long nothing was begun in a folder that is being filled, of which each call fills at most a thousand files."""

_DAY_SECONDS = 86400.0
_LOCK_OF = re.compile(r"(?P<home>[0-9a-f]{16})\.(?P<version>[0-9a-f]{32})\.lock")

_log = logging.getLogger(__name__)

_held: dict[Path, int] = {}
"""This process' locks, kept for as long as it lives: what has read a folder's names may read its files at any time."""
_held_lock = threading.Lock()


def hold(folder: Path, *, size: int) -> None:
    """Keeps a version from being removed until this process and its forks have ended; it counts as used now.

    Args:
        folder: The version's, which need not be there yet.
        size: Of its files, in bytes.
    """
    path = _lock_of(folder)
    try:
        with _held_lock:
            if (held := _held.get(path)) is None or not _is_at(held, path):
                if held is not None:
                    os.close(held)
                    del _held[path]
                _held[path] = held = _shared(path)
            if os.fstat(held).st_size == 0:
                os.pwrite(held, str(size).encode(), 0)
            os.utime(held)
    except OSError as error:  # a cache that cannot be written, or whose file system has no locks
        _log.warning("%s cannot be held (%s); it could be removed while it is in use", folder, error)


def make_room(cache: Path, *, needed: int = 0, days: float | None = None, limit: int | None = None) -> None:
    """Removes versions that no process uses, those first that were not used for longest.

    Args:
        cache: Where versions of all addresses are.
        needed: Bytes that are about to be put there.
        days: Versions that were not used for so long go; None for however long.
        limit: Others go too until all that is there has no more bytes than this; None for however many.
    """
    now = time.time()
    found = sorted(_versions(cache), key=lambda version: version.used)
    total = needed + sum(version.size for version in found)
    for version in found:
        unused_days = (now - version.used) / _DAY_SECONDS
        is_old = days is not None and unused_days > days
        if (is_old or (limit is not None and total > limit)) and _remove(version.folder):
            total -= version.size
            _log.info("removed %s, %s, unused for %.1f days", version.folder, size_text(version.size), unused_days)
    if limit is not None and total > limit:
        _log.warning(
            "the data sets in %s and what is fetched now take %s, beyond FIXNORM_DATA_CACHE_GIB, which allows %s: all "
            "that is there is in use",
            cache,
            size_text(total),
            size_text(limit),
        )


def partial_of(folder: Path) -> Path:
    """Where a folder is filled, or what remains of it waits for its end; the name tells which process does it."""
    return folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}.partial")


def remove_abandoned(home: Path) -> None:
    """What killed processes have left: those of this machine, or what nobody has touched for long. No lock tells, since
    others may fetch where it does not hold.
    """
    for left in home.glob(".*.partial"):
        with suppress(FileNotFoundError):
            is_old = time.time() - left.stat().st_mtime > _ABANDONED_SECONDS
            if is_old or _is_of_the_dead(left):
                shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Version:
    folder: Path
    used: float
    size: int


def _versions(cache: Path) -> Iterator[_Version]:
    """Those that have been held; of one that an older release has fetched nothing is known until it is used again."""
    for path in cache.glob("*.lock"):
        if (names := _LOCK_OF.fullmatch(path.name)) is None:
            continue
        with suppress(OSError):
            text = path.read_text(encoding="ascii", errors="replace")
            folder = cache / names["home"] / names["version"]
            size = int(text) if text.isdecimal() and folder.is_dir() else 0
            yield _Version(folder, path.stat().st_mtime, size)


def _remove(folder: Path) -> bool:
    """Whether a version is gone, which it is not while somebody uses it."""
    path, aside = _lock_of(folder), partial_of(folder)
    try:
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # somebody else has removed it, or it is another account's
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(held, path):
            return False
        with suppress(FileNotFoundError):
            folder.rename(aside)
        path.unlink()
    except OSError:  # it is in use, or no lock tells
        return False
    finally:
        os.close(held)
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):  # other versions are there
        folder.parent.rmdir()
    return True


def _lock_of(folder: Path) -> Path:
    return folder.parent.with_name(f"{folder.parent.name}.{folder.name}.lock")


def _shared(path: Path) -> int:
    """A descriptor that shares the lock of the file that is there now."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            if _is_at(held, path):
                return held
        except OSError:
            os.close(held)
            raise
        os.close(held)  # it was removed between the two


def _is_at(held: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), path.stat())
    except FileNotFoundError:
        return False


def _is_of_the_dead(partial: Path) -> bool:
    """Whether a process of this machine filled it that is there no more."""
    pid = partial.name.split(".")[-3]
    if f".{socket.gethostname()}.{pid}." not in partial.name or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is somebody else's
        return False
    return False
