"""Where the files of a job live below the state folder."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

__all__ = [
    "best_folder",
    "ending_name",
    "ending_of",
    "is_ending",
    "is_own",
    "job_folder",
    "moved",
    "open_own",
    "tensorboard_folder",
    "trial_folder",
]

_BEST = "best"
_ENDING = re.compile(r"round-\d{3,}-\d{6,}")


def job_folder(state_dir: Path, job_id: str) -> Path:
    """All files of a job."""
    return state_dir / "jobs" / job_id


def trial_folder(state_dir: Path, job_id: str, number: int) -> Path:
    """Checkpoint, weights and log of one trial."""
    return job_folder(state_dir, job_id) / "trials" / f"{number:04d}"


def tensorboard_folder(state_dir: Path, job_id: str) -> Path:
    """TensorBoard's event files, in one folder for each trial."""
    return job_folder(state_dir, job_id) / "tensorboard"


def best_folder(state_dir: Path, job_id: str) -> Path:
    """What a user takes away: weights, report, result and job file.

    Those of a job that was reopened, and all in an object store, lie in a folder of their ending below this one.
    """
    return job_folder(state_dir, job_id) / _BEST


def ending_name(round_: int, term: int) -> str:
    """The folder of what a job ends with, which no other ending writes to.

    Args:
        round_: How often the job was reopened.
        term: Of the lease of the server that ends it; another server that takes over has another.
    """
    return f"round-{round_:03d}-{term:06d}"


def is_ending(name: str) -> bool:
    """Whether a folder has such a name."""
    return _ENDING.fullmatch(name) is not None


def ending_of(place: str) -> str:
    """The folder that a path or address below ``best`` is in; empty if it is in none below that."""
    return place.rpartition(f"/{_BEST}/")[2].rpartition("/")[0]


def moved(place: str, *, state_dir: Path, job_id: str) -> Path | None:
    """Where a file lies that was stored by its whole path, now that the state folder is this one.

    A state folder is restored or mounted elsewhere. What is below a job's folder is the same in each.

    Returns:
        The path below this state folder; None for what was never below a job's folder.
    """
    name = PurePosixPath(place.partition(f"/jobs/{job_id}/")[2])
    if not name.parts or ".." in name.parts:
        return None
    return job_folder(state_dir, job_id) / name


def open_own(path: Path, *, below: Path, appends: bool = False) -> BinaryIO:
    """Opens a file of a job to which no link leads.

    Workers write into these folders, beside users' code. A link there could lead to what the server alone may read, its
    own environment for one, and what the server reads it shows to whoever may read jobs.

    Args:
        path: The file.
        below: The state folder that it is in. Only this one, and what is above it, may be links.
        appends: Opens it for writing at its end, and makes it if it is missing.

    Raises:
        FileNotFoundError: If there is none, or a link or something else in its place or in a folder's.
        OSError: If it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT if appends else os.O_RDONLY
    folder = os.open(below, _FOLDER)
    try:
        for part in path.parent.relative_to(below).parts:
            outer, folder = folder, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(outer)
        descriptor = os.open(path.name, flags | _FILE, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise FileNotFoundError(errno.ENOENT, "a link is no file of a job", str(path)) from None
    finally:
        os.close(folder)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "ab" if appends else "rb")
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "it is no file", str(path))


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def is_own(path: Path, *, below: Path) -> bool:
    """Whether no folder between the state folder and a file is a link: what that leads to is nobody's to remove."""
    between = path.parent.relative_to(below).parts
    return not any(below.joinpath(*between[: count + 1]).is_symlink() for count in range(len(between)))
