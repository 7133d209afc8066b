"""How far trackers have been told of jobs. Functions take a session; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from service.database.rows import EventRow, JobRow, TrackedRow
from service.events.records import last_number
from service.jobs import repository
from service.schemas import TERMINAL_STATES

__all__ = ["Position", "advance", "behind", "complete", "enroll", "enroll_active", "reopen"]


@dataclass(frozen=True, slots=True)
class Position:
    """Of one tracker in one job's events.

    Attributes:
        told: Number of the last event that it is known to have been told.
        last: Number of the job's last event.
        has_ended: Whether the job has.
    """

    job_id: str
    told: int
    last: int
    has_ended: bool


def enroll(session: Session, job_id: str, trackers: Iterable[str]) -> None:
    """Has trackers told of a new job, in the transaction that stores it."""
    session.add_all(TrackedRow(job_id=job_id, tracker=tracker) for tracker in trackers)


def enroll_active(session: Session, tracker: str) -> None:
    """Has a tracker told of every job that has not ended, whoever stored it."""
    known = select(TrackedRow.job_id).where(TrackedRow.tracker == tracker)
    query = select(JobRow.id).where(JobRow.state.not_in(TERMINAL_STATES), JobRow.id.not_in(known))
    session.add_all(TrackedRow(job_id=job_id, tracker=tracker) for job_id in session.scalars(query))


def reopen(session: Session, job_id: str) -> None:
    """Has trackers told on of a job that goes on after its end, in the transaction that reopens it."""
    session.execute(update(TrackedRow).where(TrackedRow.job_id == job_id).values(complete=False))


def behind(session: Session, tracker: str) -> Sequence[Position]:
    """Every job of which a tracker may not have been told all, the oldest first."""
    last = select(func.max(EventRow.number)).where(EventRow.job_id == TrackedRow.job_id).scalar_subquery()
    query = (
        select(TrackedRow.job_id, TrackedRow.number, last, JobRow.state)
        .join(JobRow, JobRow.id == TrackedRow.job_id)
        .where(TrackedRow.tracker == tracker, TrackedRow.complete.is_(False))
        .order_by(JobRow.created_at, JobRow.id)
    )
    found = session.execute(query)
    return [Position(job_id, told, number or 0, state in TERMINAL_STATES) for job_id, told, number, state in found]


def advance(session: Session, job_id: str, tracker: str, number: int) -> None:
    """Stores that a tracker has been told up to a number."""
    session.execute(update(TrackedRow).where(*_is(job_id, tracker)).values(number=number))


def complete(session: Session, job_id: str, tracker: str, number: int) -> bool:
    """Stores that a tracker has been told all of an ended job; False, and nothing, if it goes on or has more."""
    job = repository.take_job(session, job_id)  # nobody reopens it meanwhile
    if job is None or job.state not in TERMINAL_STATES or last_number(session, job_id) != number:
        return False
    session.execute(update(TrackedRow).where(*_is(job_id, tracker)).values(number=number, complete=True))
    return True


def _is(job_id: str, tracker: str) -> tuple[ColumnElement[bool], ...]:
    return (TrackedRow.job_id == job_id, TrackedRow.tracker == tracker)
