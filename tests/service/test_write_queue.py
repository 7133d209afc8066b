"""Writers of one process on SQLite: each in its turn, whatever becomes of the one before."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from service.database import sqlite
from service.database.engine import Database
from service.database.write_queue import WriteQueue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{path}")
    with database.write.begin() as session:
        session.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        parent = "parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED"
        session.execute(text(f"CREATE TABLE children (id INTEGER PRIMARY KEY, {parent})"))
    yield database
    database.close()


@pytest.fixture
def queue(path: Path) -> WriteQueue:
    return WriteQueue.of(str(path))


def _write(database: Database) -> None:
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))


def wait_for(queue: WriteQueue, waiting: int) -> None:
    until = time.monotonic() + 30
    while len(queue) != waiting:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_writers_come_in_the_order_in_which_they_asked(database: Database, queue: WriteQueue) -> None:
    order: list[int] = []

    def write(number: int) -> None:
        with database.write.begin() as session:
            session.execute(text("INSERT INTO parents DEFAULT VALUES"))
            order.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            wait_for(queue, waiting)
    for thread in threads:
        thread.join(30)
    assert order == list(range(8))


def test_two_databases_on_one_file_share_a_queue_and_another_file_has_its_own(path: Path, database: Database) -> None:
    other = Database.open(f"sqlite:///{path}")
    elsewhere = Database.open(f"sqlite:///{path.with_name('b.db')}")
    try:
        with database.write.begin() as session:
            session.execute(text("INSERT INTO parents DEFAULT VALUES"))
            with elsewhere.write.begin() as second:
                second.execute(text("SELECT 1"))
            thread = threading.Thread(target=_write, args=(other,))
            thread.start()
            wait_for(WriteQueue.of(str(path)), 1)
        thread.join(30)
        assert not thread.is_alive()
    finally:
        other.close()
        elsewhere.close()


def test_readers_do_not_wait(database: Database) -> None:
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))
        with database.read() as reading:
            assert reading.scalar(text("SELECT count(*) FROM parents")) == 0


def test_who_waits_too_long_is_told_so_and_holds_up_nobody(
    database: Database, queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))
        with pytest.raises(OperationalError, match="database is locked"), database.write.begin() as second:
            second.execute(text("SELECT 1"))
        assert len(queue) == 0
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))


def test_a_transaction_that_cannot_begin_passes_its_turn_on(
    path: Path, database: Database, queue: WriteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    impatient = Database.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)  # as another process
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(OperationalError, match="database is locked"), impatient.write.begin() as session:
            session.execute(text("SELECT 1"))
        assert queue.enter(0)
        queue.leave()
    finally:
        other.close()
        impatient.close()


@pytest.mark.parametrize("statement", ["INSERT INTO children (parent) VALUES (7)", "INSERT INTO nowhere VALUES (1)"])
def test_a_transaction_that_fails_at_its_end_or_before_passes_its_turn_on(database: Database, statement: str) -> None:
    with pytest.raises((IntegrityError, OperationalError)), database.write.begin() as session:
        session.execute(text(statement))
    with database.write.begin() as session:
        session.execute(text("INSERT INTO parents DEFAULT VALUES"))


def test_a_connection_that_is_closed_in_its_transaction_passes_its_turn_on(database: Database) -> None:
    session = database.write()
    session.execute(text("INSERT INTO parents DEFAULT VALUES"))
    session.connection().invalidate()
    with database.write.begin() as other:
        other.execute(text("INSERT INTO parents DEFAULT VALUES"))
        assert other.scalar(text("SELECT count(*) FROM parents")) == 1
    session.close()
