"""Messages that are to be delivered. Functions take a session; the caller owns the transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from service.database.rows import DeliveryRow, EventRow, JobRow
from service.events.records import last_number

__all__ = ["claim", "count_waiting", "due", "last_of", "message", "note", "promise"]


def promise(session: Session, job_id: str) -> None:
    """Has a job's last event delivered, if the job names an address.

    In the transaction that stores the event, so that neither is there without the other.
    """
    url = session.get_one(JobRow, job_id).spec.get("webhook")
    if url is not None:
        session.add(DeliveryRow(job_id=job_id, number=last_number(session, job_id), url=url))


def due(session: Session, *, now: datetime) -> Sequence[DeliveryRow]:
    """What is to be tried now, the longest waiting first."""
    query = (
        select(DeliveryRow).where(DeliveryRow.due_at <= now).order_by(DeliveryRow.due_at, DeliveryRow.job_id).limit(100)
    )
    return session.scalars(query).all()


def count_waiting(session: Session) -> int:
    """How many have neither arrived nor been given up."""
    return session.scalar(select(func.count()).where(DeliveryRow.due_at.is_not(None))) or 0


def last_of(session: Session, jobs: Iterable[JobRow]) -> Mapping[str, DeliveryRow]:
    """By job, what is or was to be told of its last end; nothing of jobs without a webhook, which are not looked up."""
    asked = [job.id for job in jobs if job.spec.get("webhook") is not None]
    if not asked:
        return {}
    query = select(DeliveryRow).where(DeliveryRow.job_id.in_(asked)).order_by(DeliveryRow.number)
    return {delivery.job_id: delivery for delivery in session.scalars(query)}


def claim(session: Session, delivery: DeliveryRow, *, until: datetime) -> bool:
    """Counts a try and keeps other servers off it for a while; False when another one was quicker."""
    guard = (*_is(delivery), DeliveryRow.tries == delivery.tries, DeliveryRow.due_at == delivery.due_at)
    values = {"tries": delivery.tries + 1, "due_at": until}
    return bool(session.execute(update(DeliveryRow).where(*guard).values(**values)).rowcount)  # type: ignore[attr-defined]


def note(session: Session, delivery: DeliveryRow, *, error: str | None, due_at: datetime | None, now: datetime) -> None:
    """Stores how a try went; without a ``due_at`` it was the last one."""
    delivered_at = now if error is None else None
    values = {"error": error, "due_at": due_at, "delivered_at": delivered_at}
    session.execute(update(DeliveryRow).where(*_is(delivery)).values(**values))


def message(session: Session, delivery: DeliveryRow) -> bytes:
    """What a delivery says: how the job ended, and its best point."""
    event = session.get_one(EventRow, (delivery.job_id, delivery.number))
    job = session.get_one(JobRow, delivery.job_id)
    data = {"job": job.id, "name": job.name, "best": job.result, **event.data}
    return json.dumps({"type": event.kind, "timestamp": event.created_at.isoformat(), "data": data}).encode()


def _is(delivery: DeliveryRow) -> tuple[ColumnElement[bool], ...]:
    return (DeliveryRow.job_id == delivery.job_id, DeliveryRow.number == delivery.number)
