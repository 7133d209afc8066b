"""Where the files of a job live below the state folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["best_folder", "job_folder", "tensorboard_folder", "trial_folder"]


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
    """What a user takes away: weights, report, result and job file."""
    return job_folder(state_dir, job_id) / "best"
