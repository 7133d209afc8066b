"""What makes SQLite safe under several threads, for our tables and for Optuna's.

A transaction that reads first and writes later can lose the race for the write lock, and Optuna then hands the same
queued trial to two threads and lets two results of one trial both succeed. With ``BEGIN IMMEDIATE`` a writing
transaction holds the lock from its start. Readers use connections of their own that cannot write and, thanks to the
write-ahead log, neither wait for writers nor hold them up. The writers of one process wait in a queue of their own
(:mod:`service.database.write_queue`), since SQLite has none.

Sources: https://www.sqlite.org/lang_transaction.html; SQLAlchemy, "Serializable isolation / Savepoints" of the
pysqlite dialect; Optuna issues 820, 4994, 4002.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Engine, event

from service.database.write_queue import QueuedConnection, WriteQueue

__all__ = ["BUSY_SECONDS", "make_safe"]

BUSY_SECONDS = 60.0
"""How long a connection waits for another's write before it gives up."""


def make_safe(engine: Engine, *, read_only: bool) -> None:
    """Sets an SQLite engine up for writing or for reading; its connections are ``QueuedConnection``."""
    queue = None if read_only else WriteQueue.of(engine.url.database)

    @event.listens_for(engine, "connect")
    def _configure(connection: QueuedConnection, _record: Any) -> None:
        connection.queue = queue
        connection.isolation_level = None  # transactions begin below, not where the driver sees fit
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if read_only:
            connection.exec_driver_sql("BEGIN")
            return
        driver = cast("QueuedConnection", connection.connection.dbapi_connection)
        driver.take_turn(BUSY_SECONDS)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except BaseException:
            driver.pass_turn()
            raise

    engine.dispose()
