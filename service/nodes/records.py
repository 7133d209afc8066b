"""Sentences as they are stored. Functions take a session; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service.database.rows import QuarantineRow
from service.nodes.quarantine import Sentence

__all__ = ["lift", "load_sentences", "pardon", "store"]


def load_sentences(session: Session) -> Mapping[str, Sentence]:
    """The last one of each node that had any."""
    rows = session.scalars(select(QuarantineRow))
    return {row.node: Sentence(row.node, row.reason, row.since, row.until, row.times, row.lifted_at) for row in rows}


def store(session: Session, sentence: Sentence) -> None:
    """Stores a node's last one."""
    session.merge(
        QuarantineRow(
            node=sentence.node,
            reason=sentence.reason,
            since=sentence.since,
            until=sentence.until,
            times=sentence.times,
            lifted_at=sentence.lifted_at,
        )
    )


def lift(session: Session, node: str, *, now: datetime) -> None:
    """Notes that a trial has ended well on a node: it is in use again."""
    guard = (QuarantineRow.node == node, QuarantineRow.lifted_at.is_(None))
    session.execute(update(QuarantineRow).where(*guard).values(lifted_at=now))


def pardon(session: Session, node: str) -> bool:
    """Has a node be in use again as if nothing had happened; returns whether it was not."""
    row = session.get(QuarantineRow, node)
    session.execute(delete(QuarantineRow).where(QuarantineRow.node == node))
    return row is not None and row.lifted_at is None
