"""Having a job go on for longer than it was submitted for: more trials, also when it has ended.

A job whose search was over, or that has ended, is *reopened*: a new round of it begins. Its trials, their results and
its budget stay what they are; whatever ended it or its search (failures, limits of time and of progress, a target
reached) is looked for in the new round alone, or it would end at once for the same reason. Like any verb this is one
guarded write, on whichever server is asked; the dispatcher acts on what is stored.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.database.engine import Database
from service.database.rows import JobRow
from service.events.records import has_recorded
from service.jobs import repository
from service.jobs.amended import amend, spec_of
from service.jobs.verbs import check_goes_on
from service.problems import NotFound
from service.schemas import TERMINAL_STATES, JobState

__all__ = ["extend"]


def extend(job_id: str, trials: int, *, database: Database, key: str | None, now: datetime) -> None:
    """Adds trials to a job's budget. One whose search was over searches on, whatever its sampler thinks of that.

    Args:
        job_id: The job.
        trials: How many more.
        database: Ours.
        key: Idempotency key; a second request with the same key changes nothing.
        now: The time.

    Raises:
        NotFound: If there is no such job.
        VerbImpossible: If the job is being stopped or cancelled.
    """
    told = f"extended.{hashlib.sha256(key.encode()).hexdigest()[:40]}" if key is not None else None
    with database.write.begin() as session:
        job = repository.take_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
        if told is not None and has_recorded(session, job_id, told):
            return
        check_goes_on(job, "extended")
        was_over = job.stop_reason is not None
        budget = spec_of(job).budget
        changed: dict[str, Any] = {"max_trials": budget.max_trials + trials}
        if was_over:
            changed["stop_early"] = False
        budget = budget.model_copy(update=changed)
        more = "1 trial" if trials == 1 else f"{trials} trials"
        values: dict[str, Any] = {
            "amended": amend(job, budget=budget),
            "amendments": job.amendments + 1,
            "reason": f"extended by {more} to {budget.max_trials} by request",
        }
        if was_over or job.state in TERMINAL_STATES:
            values |= _reopened(job, now=now)
        if was_over:
            values |= {"stop_reason": None, "search_round": job.round + 1}
        _go_on(session, job, values, key=told)


def _reopened(job: JobRow, *, now: datetime) -> dict[str, Any]:
    """What a new round begins with."""
    began = now if job.started_at is not None else None
    return {"round": job.round + 1, "reopened_at": began, "ended_at": None, "result": None, "cancel_requested": False}


def _go_on(session: Session, job: JobRow, values: dict[str, Any], *, key: str | None) -> None:
    origin = JobState(job.state)
    if origin in TERMINAL_STATES:
        to = JobState.QUEUED if job.started_at is None else JobState.RUNNING
        moved = repository.move_job(session, job.id, origin, to, key=key, **values)
    else:
        moved = repository.update_job(session, job.id, origin, key=key, **values)
    assert moved  # it was taken
