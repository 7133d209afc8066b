"""Events are written and read here. Functions take a session; the caller owns the transaction.

An event of one of our own rows is stored in the transaction that changes the row. What Optuna's storage holds (epochs,
results of trials) changes in a transaction of Optuna's, so its event is stored right after and carries a key: after a
crash in between it is stored by whoever settles the job, and never twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.orm import Session

from fixnorm_core.reports import EpochReport, measures_of
from service.database.rows import EventRow, JobRow
from service.schemas import EventKind, EventView, TrialState, TrialView

__all__ = [
    "events_after",
    "has_recorded",
    "last_heard",
    "last_number",
    "last_of",
    "record",
    "record_ends",
    "record_epochs",
]

_OF_ATTEMPTS = (EventKind.ATTEMPT_STARTED, EventKind.TRIAL_EPOCH, EventKind.ATTEMPT_ENDED, EventKind.TRIAL_ENDED)
"""What is recorded by the server that runs the jobs alone."""


def record(session: Session, job_id: str, kind: EventKind, data: Mapping[str, Any], *, key: str | None = None) -> None:
    """Appends an event; one whose key the job has had is left out."""
    _append(session, job_id, kind, {key: dict(data)} if key is not None else {None: dict(data)})


def has_recorded(session: Session, job_id: str, key: str) -> bool:
    """Whether a job has an event of that key."""
    return bool(_keys(session, job_id, [key]))


def record_epochs(session: Session, job_id: str, number: int, epochs: Mapping[int, EpochReport | float]) -> None:
    """Appends the epochs of a trial that the events do not tell of yet, by epoch, from 1.

    Args:
        session: The caller's transaction.
        job_id: The job.
        number: The trial's.
        epochs: What was reported of each, or its validation accuracy where no more is known.
    """
    told = {
        f"trial.{number}.epoch.{epoch}": {"trial": number, "epoch": epoch, **_told_of(epochs[epoch])}
        for epoch in sorted(epochs)
    }
    _append(session, job_id, EventKind.TRIAL_EPOCH, told)


def record_ends(session: Session, job_id: str, trials: Iterable[TrialView]) -> None:
    """Appends the ends of those trials that have ended and whose end the events do not tell of yet."""
    told = {
        f"trial.{trial.number}.ended": {
            "trial": trial.number,
            "state": trial.state,
            "validation_accuracy": _finite(trial.validation_accuracy),
            "reason": trial.reason,
        }
        for trial in trials
        if trial.state is not TrialState.RUNNING
    }
    _append(session, job_id, EventKind.TRIAL_ENDED, told)


def events_after(session: Session, job_id: str, number: int, *, limit: int) -> Sequence[EventView]:
    """A job's events after a number, in order."""
    query = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.number > number)
        .order_by(EventRow.number)
        .limit(limit)
    )
    return [_view(row) for row in session.scalars(query)]


def last_of(session: Session, job_id: str, kind: EventKind) -> dict[str, Any] | None:
    """What a job's last event of a kind tells; None before the first."""
    query = select(EventRow.data).where(EventRow.job_id == job_id, EventRow.kind == kind)
    return session.scalar(query.order_by(EventRow.number.desc()).limit(1))


def last_heard(session: Session, job_id: str) -> datetime | None:
    """When the server last had news of a job's attempts, or started one; None if it never had."""
    query = select(EventRow.created_at).where(EventRow.job_id == job_id, EventRow.kind.in_(_OF_ATTEMPTS))
    return session.scalar(query.order_by(EventRow.number.desc()).limit(1))


def last_number(session: Session, job_id: str) -> int:
    """The number of a job's last event; 0 before the first."""
    return session.scalar(select(func.max(EventRow.number)).where(EventRow.job_id == job_id)) or 0


def _view(row: EventRow) -> EventView:
    return EventView(number=row.number, job=row.job_id, kind=EventKind(row.kind), at=row.created_at, **row.data)


def _append(
    session: Session, job_id: str, kind: EventKind, told: Mapping[str, dict[str, Any]] | Mapping[None, dict[str, Any]]
) -> None:
    """Appends events by their keys, less those whose key the job has had; an event without a key has the key None.

    The job's row is locked first (SQLite locks everything), so that numbers follow the order of the commits and a
    reader who has seen a number never misses a lower one.
    """
    if not told:
        return
    last = _lock(session, job_id)
    known = _keys(session, job_id, [key for key in told if key is not None])
    new = [(key, data) for key, data in told.items() if key not in known]
    if new:
        rows = [
            {"job_id": job_id, "number": number, "kind": kind, "key": key, "data": data}
            for number, (key, data) in enumerate(new, start=last + 1)
        ]
        session.connection().execute(_STORE, rows)  # as plain rows: several for each trial, and nobody changes them
    session.info[_LAST] = session.get_transaction(), job_id, last + len(new)


def _lock(session: Session, job_id: str) -> int:
    """Locks a job's row, if this transaction has not done so; returns the number of the job's last event."""
    match session.info.get(_LAST):
        case transaction, locked, last if transaction is session.get_transaction() and locked == job_id:
            return int(last)
    session.flush()  # a job that is stored in this transaction
    connection = session.connection()
    if connection.dialect.name == "postgresql":  # SQLite's writer has the whole database to itself
        connection.execute(_LOCK, {"job": job_id})
    return connection.scalar(_COUNT, {"job": job_id}) or 0


_LAST = "fixnorm_tune.last_event"
_STORE = insert(EventRow)
_LOCK = select(JobRow.__table__.c.id).where(JobRow.__table__.c.id == bindparam("job")).with_for_update()
_COUNT = select(func.max(EventRow.__table__.c.number)).where(EventRow.__table__.c.job_id == bindparam("job"))


def _told_of(epoch: EpochReport | float) -> dict[str, Any]:
    if isinstance(epoch, EpochReport):
        return {"validation_accuracy": _finite(epoch.validation_accuracy), "measures": dict(measures_of(epoch))}
    return {"validation_accuracy": _finite(epoch)}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN, which a run that diverges may report."""
    return value if value is not None and math.isfinite(value) else None


def _keys(session: Session, job_id: str, keys: Sequence[str]) -> set[str]:
    """Those of ``keys`` that the job's events have."""
    found: set[str] = set()
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[begin : begin + _KEYS_AT_ONCE]
        query = select(EventRow.key).where(EventRow.job_id == job_id, EventRow.key.in_(some))
        found.update(key for key in session.scalars(query) if key is not None)
    return found


_KEYS_AT_ONCE = 500  # an older SQLite takes 999 parameters
