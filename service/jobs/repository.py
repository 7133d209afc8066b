"""Every query of our tables. Functions take a session; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptRow, AttemptState, JobRow
from service.schemas import TERMINAL_STATES, JobState

__all__ = [
    "active_jobs",
    "attempts_of",
    "end_attempt",
    "find_by_key",
    "find_job",
    "live_attempts",
    "page_of_jobs",
    "request_cancel",
    "start_attempt",
    "update_job",
]

_ACTIVE = tuple(state for state in JobState if state not in TERMINAL_STATES)


def find_job(session: Session, job_id: str) -> JobRow | None:
    """A job by its id."""
    return session.get(JobRow, job_id)


def find_by_key(session: Session, key: str) -> JobRow | None:
    """The job that was submitted with an idempotency key."""
    return session.scalar(select(JobRow).where(JobRow.idempotency_key == key))


def active_jobs(session: Session) -> Sequence[JobRow]:
    """Jobs that have not ended, oldest first."""
    query = select(JobRow).where(JobRow.state.in_(_ACTIVE)).order_by(JobRow.created_at, JobRow.id)
    return session.scalars(query).all()


def page_of_jobs(
    session: Session, *, state: JobState | None, limit: int, before: tuple[datetime, str] | None
) -> Sequence[JobRow]:
    """Jobs, newest first, that come after the position ``before``."""
    query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)
    if state is not None:
        query = query.where(JobRow.state == state)
    if before is not None:
        query = query.where(tuple_(JobRow.created_at, JobRow.id) < before)
    return session.scalars(query).all()


def update_job(session: Session, job_id: str, **values: Any) -> bool:
    """Changes a job that has not ended; returns whether there was one."""
    guard = (JobRow.id == job_id, JobRow.state.in_(_ACTIVE))
    return bool(session.execute(update(JobRow).where(*guard).values(**values)).rowcount)  # type: ignore[attr-defined]


def request_cancel(session: Session, job_id: str) -> bool:
    """Asks the dispatcher to end a job; returns whether it had not ended."""
    return update_job(session, job_id, cancel_requested=True, reason="being cancelled")


def attempts_of(session: Session, job_ids: Iterable[str]) -> Sequence[AttemptRow]:
    """All attempts of some jobs, oldest first."""
    query = (
        select(AttemptRow)
        .where(AttemptRow.job_id.in_(tuple(job_ids)))
        .order_by(AttemptRow.trial_number, AttemptRow.created_at, AttemptRow.id)
    )
    return session.scalars(query).all()


def live_attempts(session: Session) -> Sequence[AttemptRow]:
    """Attempts that may be running somewhere."""
    return session.scalars(select(AttemptRow).where(AttemptRow.state.in_(LIVE_ATTEMPT_STATES))).all()


def start_attempt(session: Session, attempt_id: str) -> bool:
    """Marks an attempt as running when its first report arrives."""
    return _move(session, attempt_id, (AttemptState.STARTING,), state=AttemptState.RUNNING)


def end_attempt(
    session: Session,
    attempt_id: str,
    state: AttemptState,
    *,
    now: datetime,
    reason: str = "",
    failure: str | None = None,
    result: dict[str, Any] | None = None,
) -> bool:
    """Ends a live attempt; returns False, and changes nothing, when it had ended already."""
    values = {"state": state, "reason": reason, "failure": failure, "result": result, "ended_at": now}
    return _move(session, attempt_id, LIVE_ATTEMPT_STATES, **values)


def _move(session: Session, attempt_id: str, origins: tuple[AttemptState, ...], **values: Any) -> bool:
    guard = (AttemptRow.id == attempt_id, AttemptRow.state.in_(origins))
    return bool(session.execute(update(AttemptRow).where(*guard).values(**values)).rowcount)  # type: ignore[attr-defined]
