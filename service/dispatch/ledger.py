"""The attempts of jobs as they are stored, remembered: the holder of the lease alone writes them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from service.database.engine import Database
from service.database.rows import AttemptKind, AttemptRow, AttemptState
from service.dispatch.lease import Lease
from service.jobs import repository
from worker.contracts import UNCHARGED_FAILURES

__all__ = ["Ledger"]


@dataclass(slots=True)
class Ledger:
    """Reads a job's attempts once, and anew after a write that failed. Used by the dispatcher's thread alone."""

    database: Database
    lease: Lease
    _known: dict[str, list[AttemptRow]] = field(default_factory=dict, init=False)

    def of(self, job_id: str) -> Sequence[AttemptRow]:
        """All attempts of a job, those at one trial oldest first."""
        if job_id not in self._known:
            with self.database.read() as session:
                self._known[job_id] = list(repository.attempts_of(session, [job_id]))
        return self._known[job_id]

    def charged_failures(self, job_id: str, kind: AttemptKind, number: int) -> int:
        """How often a trial, or its evaluation, has failed by its own doing."""
        failed = [row for row in self.of(job_id) if row.state == AttemptState.FAILED]
        return sum(
            row.kind == kind and row.trial_number == number and row.failure not in UNCHARGED_FAILURES for row in failed
        )

    @contextmanager
    def writing(self, job_id: str) -> Iterator[Session]:
        """A transaction of the lease's in which a job's attempts are written; each is to be noted.

        Raises:
            LeaseLost: If another server has the lease; nothing is written.
        """
        try:
            with self.lease.writing() as session:
                yield session
        except BaseException:  # it may have been made all the same
            self.forget(job_id)
            raise

    def note(self, session: Session, attempt_id: str) -> AttemptRow:
        """Remembers an attempt that was just written, and returns it as it is stored."""
        row = session.get_one(AttemptRow, attempt_id)
        if (known := self._known.get(row.job_id)) is not None:
            known[:] = [other for other in known if other.id != attempt_id]
            insort(known, row, key=lambda each: (each.trial_number, len(each.id), each.id))  # as attempts_of
        return row

    def forget(self, job_id: str) -> None:
        """Frees what is kept for a job."""
        self._known.pop(job_id, None)

    def forget_all(self) -> None:
        """Frees everything: another server writes now."""
        self._known.clear()
