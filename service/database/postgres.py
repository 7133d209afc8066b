"""What PostgreSQL needs: a bound on waiting for it, readers that cannot write, one maker of tables at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url, pool, text

__all__ = ["CONNECT_SECONDS", "make_safe", "one_at_a_time"]

CONNECT_SECONDS = 10
"""How long a new connection may take: a host that does not answer must not hold a server's start for minutes."""

IDLE_SECONDS = 30
"""How long a transaction may do nothing: what a suspended server has locked, others get after this."""

_MIGRATION_KEY = 0x66697878  # "fixx": any number that no one else locks in this database


def make_safe(engine: Engine, *, read_only: bool) -> None:
    """Sets a PostgreSQL engine up for writing, or for reading: every transaction is then a ``BEGIN READ ONLY``."""

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
        connection.commit()
        connection.read_only = read_only

    engine.dispose()


@contextmanager
def one_at_a_time(url: str) -> Iterator[None]:
    """Keeps other servers that start now from making tables beside this one; SQLite has its file lock for that."""
    if make_url(url).get_backend_name() != "postgresql":
        yield
        return
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"connect_timeout": CONNECT_SECONDS})
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_KEY})
        yield  # closing the connection lets go of the lock, and so does the death of this process
