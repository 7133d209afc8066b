"""What may go of which ended job: a decision, of times and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

__all__ = ["Decision", "EndedJob", "Policy", "Pruned", "What", "decide"]

_SCRATCH_REST = timedelta(hours=1)
"""A worker that was cut off may still be writing when its job has ended, and a user still fetching the weights that it
had ended with before; not for so long."""


class What(StrEnum):
    """What of a job is removed."""

    SCRATCH = "scratch"
    """What killed processes left half-written, and what an earlier ending left. Nobody can use it."""

    CHECKPOINTS = "checkpoints"
    """What a trial would resume from. No trial of an ended job does: `retry` and `extend` begin new ones."""

    LOGS = "logs"
    """What attempts have printed."""

    JOB = "job"
    """All of it: its rows, events, study and files."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long what is kept after a job's end.

    Attributes:
        checkpoints: Checkpoints; None for ever.
        logs: Logs of attempts; None for ever.
        jobs: Whole jobs; None for ever.
        last_jobs: How many of the jobs that ended last are kept whole, however old the others are; None for all.
        keep_best: Whether the folder with a removed job's best weights, report and job file stays.
    """

    checkpoints: timedelta | None = None
    logs: timedelta | None = None
    jobs: timedelta | None = None
    last_jobs: int | None = None
    keep_best: bool = True


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended.

    Attributes:
        id: Its id.
        ended_at: When.
        is_held: Whether something still needs its rows: a webhook that is to be delivered, or a tracker.
        named: The paths and addresses of what its result has kept.
    """

    id: str
    ended_at: datetime
    is_held: bool = False
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What goes of a job, from the least to all of it."""

    job: EndedJob
    what: tuple[What, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        job: The job's id.
        what: What of it.
        files: How many.
        bytes: Their sizes together.
        kept: Why there is more that could not be removed, which is tried again; None if there is not.
    """

    job: str
    what: What
    files: int
    bytes: int
    kept: str | None = None


def decide(policy: Policy, jobs: Sequence[EndedJob], *, now: datetime) -> list[Decision]:
    """Looks at all ended jobs; one of which nothing goes has no decision.

    Args:
        policy: How long what is kept.
        jobs: All that have ended, in any order.
        now: The time.
    """
    found = []
    latest_first = sorted(jobs, key=lambda job: (job.ended_at, job.id), reverse=True)
    for place, job in enumerate(latest_first):
        age = now - job.ended_at
        is_one_too_many = policy.last_jobs is not None and place >= policy.last_jobs
        if (is_one_too_many or _is_over(policy.jobs, age)) and not job.is_held:
            found.append(Decision(job, (What.JOB,)))
            continue
        limits = {What.SCRATCH: _SCRATCH_REST, What.CHECKPOINTS: policy.checkpoints, What.LOGS: policy.logs}
        if what := tuple(each for each, limit in limits.items() if _is_over(limit, age)):
            found.append(Decision(job, what))
    return found


def _is_over(limit: timedelta | None, age: timedelta) -> bool:
    return limit is not None and age >= limit
