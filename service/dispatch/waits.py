"""That an attempt waits for an object store, told while it does: a request may hang for minutes before it fails."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fixnorm_core.waits import StoreWait
from service.database.rows import AttemptRow
from service.dispatch.ledger import Ledger
from service.dispatch.live import LiveAttempt
from service.jobs import repository

__all__ = ["StoreWaits"]


@dataclass(slots=True)
class StoreWaits:
    """Keeps the reasons of running attempts: what they wait for, or nothing."""

    _waiting: set[str] = field(default_factory=set)

    def note(self, attempt: LiveAttempt, waits: StoreWait | None, *, stored: Ledger, now: datetime) -> None:
        """Stores that an attempt waits, and since when, or that it no longer does; nothing that is not new."""
        if (waits is not None) is (attempt.id in self._waiting):
            return
        reason = ""
        if waits is not None:
            since = now - timedelta(seconds=waits.seconds)  # a time of day and no length: each new reason is an event
            reason = f"waiting for the store of {waits.url} since {since:%H:%M:%S} UTC"
        with stored.writing(attempt.job_id) as session:
            repository.explain_attempt(session, attempt.id, lease=attempt.lease, reason=reason)
            stored.note(session, attempt.id)
        attempt.log.info("attempt.waits" if reason else "attempt.goes_on", reason=reason)
        if waits is None:
            self._waiting.discard(attempt.id)
        else:
            self._waiting.add(attempt.id)

    def adopt(self, rows: Iterable[AttemptRow]) -> None:
        """Takes over what another server has stored of attempts that run."""
        self._waiting.update(row.id for row in rows if row.reason)

    def forget(self, attempt_id: str) -> None:
        """An attempt is over."""
        self._waiting.discard(attempt_id)

    def forget_all(self) -> None:
        """Another server writes now."""
        self._waiting.clear()
