"""The dispatcher's lease: of all the servers on one database, the one that holds it dispatches, the others stand by.

It is a row with a token, a term and an end. Its holder puts the end off again and again; whoever finds it over takes
it, with a new token and the next term, so that what outlives a holder can tell a later one from an earlier. Time is the
database's, so that servers need not agree on it. Every transaction of a dispatcher first reads the row and keeps it
from changing until the transaction ends (:meth:`Lease.writing`): a server that was suspended and does not know that its
time is over cannot write what another is deciding.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database.engine import Database
from service.database.rows import LeaseRow

__all__ = ["DISPATCHER", "Lease", "LeaseLost"]

DISPATCHER = "dispatcher"

_PLAUSIBLE = timedelta(minutes=5)
"""How far off an end may lie, whatever another server's setting is."""

_HELD = (
    select(LeaseRow.__table__.c.token).where(LeaseRow.__table__.c.name == DISPATCHER).with_for_update(read=True)
)  # read first in each of the dispatcher's transactions

log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Another server dispatches now; what this one was about to do is the other's."""


@dataclass(slots=True)
class Lease:
    """One server's hold on a lease. Used by the dispatcher's thread and by one that renews it.

    Attributes:
        database: Ours.
        holder: Who takes it, for a person.
        lasts: How long a server that has stopped renewing it is waited for.
        alone: Whether no other server can be on this database. It is then taken at once, whoever held it, and
            never ends.
        now: The wall clock, in UTC, for a database that has none.
        clock: Seconds that only grow.
        term: How often it had been taken when this server last took it, that time included.
    """

    database: Database
    holder: str
    lasts: timedelta
    alone: bool
    now: Callable[[], datetime]
    clock: Callable[[], float] = time.monotonic
    term: int = field(default=0, init=False)
    _token: str | None = field(default=None, init=False)
    _ends: float = field(default=0.0, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _keeper: threading.Thread | None = field(default=None, init=False)
    _doubted: tuple[tuple[str | None, datetime], float] | None = field(default=None, init=False)

    @property
    def held(self) -> bool:
        """Whether this server has it, as far as it knows."""
        return self._token is not None

    @property
    def retry_seconds(self) -> float:
        """How often a server that has not got it should try to take it."""
        return min(1.0, self.lasts.total_seconds() / 4)

    @property
    def token(self) -> str:
        """What stands in the row while this server has it.

        Raises:
            LeaseLost: If it has not.
        """
        if self._token is None:
            raise LeaseLost
        return self._token

    def take(self) -> bool:
        """Takes it if it is free or over; returns whether."""
        token, begin = secrets.token_hex(16), self.clock()
        with self.database.write.begin() as session:
            now = self._database_now(session)
            row = update(LeaseRow).where(LeaseRow.name == DISPATCHER)
            if not self.alone:
                free = or_(
                    LeaseRow.ends_at.is_(None), LeaseRow.ends_at < now, LeaseRow.ends_at == self._stuck(session, now)
                )
                row = row.where(free)
            row = row.values(token=token, holder=self.holder, ends_at=now + self.lasts, term=LeaseRow.term + 1)
            term = session.scalar(row.returning(LeaseRow.term))
            if term is None:
                return False
        self.term, self._token, self._ends = term, token, begin + self.lasts.total_seconds()
        log.info("lease.taken", holder=self.holder)
        return True

    def _stuck(self, session: Session, now: datetime) -> datetime | None:
        """Its end, if that lies further off than any holder puts it and is not put off any more; else None.

        The database's clock was set back, after the last renewal of a holder that is gone: its end may be years away.
        """
        held = session.execute(select(LeaseRow.token, LeaseRow.ends_at).where(LeaseRow.name == DISPATCHER)).one()
        token, ends_at = held
        if ends_at is None or ends_at <= now + max(_PLAUSIBLE, 4 * self.lasts):
            self._doubted = None
            return None
        if self._doubted is None or self._doubted[0] != (token, ends_at):
            self._doubted = ((token, ends_at), self.clock())
        return ends_at if self.clock() - self._doubted[1] >= self.lasts.total_seconds() else None

    def renew(self) -> bool:
        """Puts its end off. One that is over and that nobody has taken is still this server's.

        Returns:
            Whether this server still has it.
        """
        token, begin = self._token, self.clock()
        if token is None:
            return False
        with self.database.write.begin() as session:
            mine = update(LeaseRow).where(LeaseRow.name == DISPATCHER, LeaseRow.token == token)
            kept = session.execute(mine.values(ends_at=self._database_now(session) + self.lasts)).rowcount  # type: ignore[attr-defined]
        if not kept:
            self._lose(token)
            return False
        self._ends = begin + self.lasts.total_seconds()
        return True

    def check(self) -> None:
        """Makes sure of it before a write that no transaction of ours can guard: Optuna's.

        Raises:
            LeaseLost: If another server has it.
        """
        if self._token is None or (not self.alone and self.clock() >= self._ends and not self.renew()):
            raise LeaseLost

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A writing transaction during which no other server can take the lease.

        Raises:
            LeaseLost: If another server has taken it before; nothing is written.
        """
        token = self.token
        with self.database.write.begin() as session:
            if session.connection().scalar(_HELD) != token:
                self._lose(token)
                raise LeaseLost
            yield session

    def release(self) -> None:
        """Lets another server take it at once."""
        token, self._token = self._token, None
        if token is not None:
            with self.database.write.begin() as session:
                mine = update(LeaseRow).where(LeaseRow.name == DISPATCHER, LeaseRow.token == token)
                session.execute(mine.values(token=None, holder=None, ends_at=None))

    def keep(self) -> None:
        """Renews it from a thread of its own, however long the dispatcher's own steps take, until :meth:`close`."""
        if not self.alone:
            self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._keeper.start()

    def close(self) -> None:
        """Ends the thread and lets another server take the lease. Idempotent."""
        self._stop.set()
        if self._keeper is not None:
            self._keeper.join()
        try:
            self.release()
        except SQLAlchemyError as error:  # it ends by itself
            log.warning("lease.not_released", error=str(error))

    def _keep(self) -> None:
        while not self._stop.wait(self.lasts.total_seconds() / 4):
            try:
                self.renew()
            except SQLAlchemyError as error:  # nobody else can take it either; try again
                log.warning("lease.not_renewed", error=str(error))

    def _lose(self, token: str) -> None:
        if self._token == token:
            self._token = None
            log.warning("lease.lost", holder=self.holder)

    def _database_now(self, session: Session) -> datetime:
        """Not the time at which a transaction began: it may have waited since."""
        if session.get_bind().dialect.name != "postgresql":
            return self.now()
        now = session.scalar(select(func.clock_timestamp()))
        assert isinstance(now, datetime)
        return now
