"""Every query of our tables. Functions take a session; the caller owns the transaction.

A write of a state is guarded: it names the state that it leaves and, for an attempt, the lease under which it was
started, and changes nothing when the row has moved on. Which moves there are is in :mod:`service.jobs.states`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptRow, AttemptState, JobRow
from service.events.records import record
from service.jobs.pauses import begin_pause, end_pause
from service.jobs.states import ACTIVE_JOB_STATES, ATTEMPT_MOVES, JOB_MOVES, check_move, origins
from service.schemas import TERMINAL_STATES, EventKind, JobState
from service.webhooks.deliveries import promise

__all__ = [
    "active_jobs",
    "attempts_of",
    "count_by_state",
    "end_attempt",
    "explain_attempt",
    "find_attempt",
    "find_by_key",
    "find_job",
    "give_turn_back",
    "jobs_of",
    "live_attempts",
    "move_job",
    "page_of_jobs",
    "pause_job",
    "request_cancel",
    "requests",
    "serve_job",
    "start_attempt",
    "take_job",
    "update_job",
    "users",
]


_user = JobRow.spec["share"]["user"].as_string()
"""Whose job it is: no change amends that."""


def find_job(session: Session, job_id: str) -> JobRow | None:
    """A job by its id."""
    return session.get(JobRow, job_id)


def take_job(session: Session, job_id: str) -> JobRow | None:
    """A job by its id, which nobody else changes before the transaction has ended."""
    return session.get(JobRow, job_id, with_for_update=True)  # SQLite has no such lock: a write has it all to itself


def find_by_key(session: Session, key: str) -> JobRow | None:
    """The job that was submitted with an idempotency key."""
    return session.scalar(select(JobRow).where(JobRow.idempotency_key == key))


def jobs_of(session: Session, job_ids: Iterable[str]) -> Sequence[JobRow]:
    """Some jobs, in no order."""
    return session.scalars(select(JobRow).where(JobRow.id.in_(tuple(job_ids)))).all()


def active_jobs(session: Session) -> Sequence[JobRow]:
    """Jobs that have not ended, oldest first."""
    query = select(JobRow).where(JobRow.state.in_(ACTIVE_JOB_STATES)).order_by(JobRow.created_at, JobRow.id)
    return session.scalars(query).all()


def count_by_state(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state; those that no job is in are left out."""
    rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
    return {JobState(state): count for state, count in rows}


def page_of_jobs(
    session: Session,
    *,
    state: JobState | None,
    limit: int,
    before: tuple[datetime, str] | None,
    search: str | None = None,
    user: str | None = None,
) -> Sequence[JobRow]:
    """Jobs, newest first, that come after the position ``before``.

    If given, those with ``search`` in their name or id, and those of a ``user``.
    """
    query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)
    if state is not None:
        query = query.where(JobRow.state == state)
    if search:
        text = search.lower()
        is_named = func.lower(JobRow.name).contains(text, autoescape=True)
        query = query.where(or_(is_named, JobRow.id.contains(text, autoescape=True)))
    if user is not None:
        query = query.where(_user == user)
    if before is not None:
        query = query.where(tuple_(JobRow.created_at, JobRow.id) < before)
    return session.scalars(query).all()


def users(session: Session) -> Sequence[str]:
    """Everybody who is named as the user of a job, by name."""
    return session.scalars(select(_user).where(_user.is_not(None)).distinct().order_by(_user)).all()


def update_job(
    session: Session,
    job_id: str,
    origin: JobState,
    *,
    under: int | None = None,
    key: str | None = None,
    **values: Any,
) -> bool:
    """Changes a job and leaves it in its state; returns False, and changes nothing, when it was not in that.

    Args:
        session: Ours.
        job_id: The job.
        origin: Its state.
        under: How often its terms had been changed when this was decided; None when that does not matter.
        key: What the event tells of, if it might be recorded again.
        values: Columns and what they become.
    """
    return _change(session, job_id, (origin,), under=under, key=key, **values)


def move_job(
    session: Session,
    job_id: str,
    origin: JobState,
    to: JobState,
    *,
    now: datetime,
    under: int | None = None,
    key: str | None = None,
    **values: Any,
) -> bool:
    """Moves a job from one state to another, as :func:`update_job` changes one that stays where it is.

    Raises:
        IllegalMove: If the one never follows the other.
    """
    check_move(JOB_MOVES, origin, to)
    if JobState.PAUSED in (origin, to):
        before = session.scalar(select(JobRow.pauses).where(JobRow.id == job_id).with_for_update())
        values["pauses"] = begin_pause(before, now) if to is JobState.PAUSED else end_pause(before, now)
    return _change(session, job_id, (origin,), under=under, key=key, state=to, **values)


def pause_job(session: Session, job_id: str, *, reason: str, now: datetime) -> bool:
    """Pauses a job that waits or runs, or tells the reason of one that is paused; returns False for all others."""
    return (
        move_job(session, job_id, JobState.RUNNING, JobState.PAUSED, now=now, reason=reason)
        or move_job(session, job_id, JobState.QUEUED, JobState.PAUSED, now=now, reason=reason)
        or update_job(session, job_id, JobState.PAUSED, reason=reason)
    )


def hold_job(session: Session, job_id: str, state: JobState, *, under: int) -> int | None:
    """The round of a job that is in a state under the terms that were changed so often; None if it is not.

    If it is, nobody moves it before the transaction has ended.
    """
    query = select(JobRow.round).where(JobRow.id == job_id, JobRow.state == state, JobRow.amendments == under)
    return session.scalar(query.with_for_update())  # SQLite has no such lock and needs none


def serve_job(session: Session, job_id: str, *, now: datetime) -> None:
    """Notes of a job that is held that an attempt of it starts, and that it waits no more."""
    session.execute(update(JobRow).where(JobRow.id == job_id).values(served_at=now, waiting_since=None))


def give_turn_back(session: Session, job_id: str) -> None:
    """Has a job that lost what it was given a turn for go before those that were served since."""
    session.execute(update(JobRow).where(JobRow.id == job_id).values(served_at=None))


def requests(session: Session) -> frozenset[tuple[str, str, bool, int]]:
    """What was asked of the dispatcher: id, state, wish to be cancelled and changes of every job that has not ended."""
    columns = (JobRow.id, JobRow.state, JobRow.cancel_requested, JobRow.amendments)
    rows = session.execute(select(*columns).where(JobRow.state.in_(ACTIVE_JOB_STATES)))
    return frozenset((row[0], row[1], row[2], row[3]) for row in rows)


def request_cancel(session: Session, job_id: str) -> bool:
    """Asks the dispatcher to end a job; returns whether it had not ended."""
    return _change(session, job_id, ACTIVE_JOB_STATES, cancel_requested=True, reason="being cancelled")


def _change(
    session: Session,
    job_id: str,
    origins: Collection[JobState],
    *,
    under: int | None = None,
    key: str | None = None,
    **values: Any,
) -> bool:
    """Changes a job that is in one of ``origins``. Each change of its state or reason is an event."""
    guard = [JobRow.id == job_id, JobRow.state.in_(origins)]
    if under is not None:
        guard.append(JobRow.amendments == under)
    if not session.execute(update(JobRow).where(*guard).values(**values)).rowcount:  # type: ignore[attr-defined]
        return False
    if values.keys() & {"state", "reason"}:
        told = select(JobRow.state, JobRow.reason, JobRow.result).where(JobRow.id == job_id)
        state, reason, result = session.execute(told).one()
        has_ended = state in TERMINAL_STATES
        kind = EventKind.JOB_ENDED if has_ended else EventKind.JOB_CHANGED
        # With what it ended with: it may be reopened before somebody has been told
        found = {"best": result} if has_ended else {}
        record(session, job_id, kind, {"state": state, "reason": reason, **found}, key=key)
        if has_ended:
            promise(session, job_id)
    return True


def attempts_of(session: Session, job_ids: Iterable[str]) -> Sequence[AttemptRow]:
    """All attempts of some jobs, by trial, oldest first: in the order of their numbers, which no clock sets back."""
    query = (
        select(AttemptRow)
        .where(AttemptRow.job_id.in_(tuple(job_ids)))
        .order_by(AttemptRow.trial_number, func.length(AttemptRow.id), AttemptRow.id)
    )
    return session.scalars(query).all()


def live_attempts(session: Session) -> Sequence[AttemptRow]:
    """Attempts that may be running somewhere."""
    return session.scalars(select(AttemptRow).where(AttemptRow.state.in_(LIVE_ATTEMPT_STATES))).all()


def find_attempt(session: Session, attempt_id: str) -> AttemptRow | None:
    """An attempt by its id."""
    return session.get(AttemptRow, attempt_id)


def start_attempt(session: Session, attempt_id: str, *, lease: str | None) -> bool:
    """Marks an attempt as running when its first report arrives."""
    return _move(session, attempt_id, AttemptState.RUNNING, lease=lease) is not None


def explain_attempt(session: Session, attempt_id: str, *, lease: str | None, reason: str) -> None:
    """Says what a live attempt waits for, or that it waits no more; changes nothing of one that is not that lease's."""
    guard = (
        AttemptRow.id == attempt_id,
        AttemptRow.state.in_(LIVE_ATTEMPT_STATES),
        AttemptRow.lease.is_not_distinct_from(lease),
    )
    session.execute(update(AttemptRow).where(*guard).values(reason=reason))


def adopt_attempt(session: Session, attempt_id: str, *, lease: str | None, to: str) -> None:
    """Passes a live attempt on from one lease to another; changes nothing if it has ended or is not that lease's."""
    guard = (
        AttemptRow.id == attempt_id,
        AttemptRow.state.in_(LIVE_ATTEMPT_STATES),
        AttemptRow.lease.is_not_distinct_from(lease),
    )
    session.execute(update(AttemptRow).where(*guard).values(lease=to))


def end_attempt(
    session: Session,
    attempt_id: str,
    state: AttemptState,
    *,
    lease: str | None,
    now: datetime,
    reason: str = "",
    failure: str | None = None,
    result: dict[str, Any] | None = None,
) -> bool:
    """Ends a live attempt; returns False, and changes nothing, when it had ended or belongs to another lease."""
    values = {"reason": reason, "failure": failure, "result": result, "ended_at": now}
    row = _move(session, attempt_id, state, lease=lease, **values)
    if row is None:
        return False
    told = {"trial": row.trial_number, "attempt": row.id, "task": row.kind, "state": state, "reason": reason}
    record(session, row.job_id, EventKind.ATTEMPT_ENDED, told)
    return True


def _move(
    session: Session, attempt_id: str, to: AttemptState, *, lease: str | None, **values: Any
) -> AttemptRow | None:
    """The attempt as it is stored now; None if it was not one that may be moved, or not that lease's."""
    guard = (
        AttemptRow.id == attempt_id,
        AttemptRow.state.in_(origins(ATTEMPT_MOVES, to)),
        AttemptRow.lease.is_not_distinct_from(lease),
    )
    moved = update(AttemptRow).where(*guard).values(state=to, **values).returning(AttemptRow)
    return session.scalar(moved, execution_options={"populate_existing": True, "synchronize_session": False})
