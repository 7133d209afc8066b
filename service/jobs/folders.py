"""Where the files of a job live below the state folder."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["best_folder", "ending_name", "ending_of", "is_ending", "job_folder", "tensorboard_folder", "trial_folder"]

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
