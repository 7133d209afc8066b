"""A job whose files have no room is paused, with what there is to do as its reason."""

from __future__ import annotations

__all__ = ["waits_for_disk"]


def waits_for_disk(job_id: str, what: str) -> str:
    """The reason of a job that a full disk has paused.

    Args:
        job_id: The job.
        what: What could not be written, and where.
    """
    return f"{what}. Nothing is lost: free some space, then 'fixnorm-tune resume {job_id}' goes on from there"
