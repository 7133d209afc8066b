"""Who writes next to an SQLite file, among the threads of one process: whoever has waited longest.

SQLite has no queue. Who finds the lock taken sleeps and looks again, after pauses that grow from 1 to 100 ms, and who
looks at the right moment is next: beside a thread that writes again and again, another one waits for long.

Source: ``sqliteDefaultBusyCallback`` in SQLite's main.c has the pauses.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from weakref import WeakValueDictionary

from sqlalchemy.exc import OperationalError

__all__ = ["QueuedConnection", "WriteQueue"]


class WriteQueue:
    """A lock that is handed on in the order in which it was asked for. Any thread may give it back."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False

    @classmethod
    def of(cls, path: str | None) -> WriteQueue:
        """The one queue of this process for the file at ``path``, as the database's URL writes it."""
        with _MUTEX:
            queue = _QUEUES.get(path)
            if queue is None:
                queue = _QUEUES[path] = cls()
            return queue

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, seconds: float) -> bool:
        """Waits for the lock so long; returns whether it was had."""
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=seconds):
            return True
        with self._mutex:
            if turn not in self._waiting:  # it was handed over at the last moment
                return True
            self._waiting.remove(turn)
            return False

    def leave(self) -> None:
        """Hands the lock to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


_MUTEX = threading.Lock()
_QUEUES: WeakValueDictionary[str | None, WriteQueue] = WeakValueDictionary()


class QueuedConnection(sqlite3.Connection):
    """A connection that takes its turn before a transaction, and passes it on when the transaction is over.

    Attributes:
        queue: That of the file's writers; None for one that does not write.
    """

    queue: WriteQueue | None = None
    _has_turn = False

    def take_turn(self, seconds: float) -> None:
        """Waits until nobody else of this process writes.

        Raises:
            OperationalError: If that takes longer; the words are SQLite's own.
        """
        if self.queue is None or self._has_turn:
            return
        if not self.queue.enter(seconds):
            raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))
        self._has_turn = True

    def pass_turn(self) -> None:
        """Lets the next one write."""
        if self.queue is not None and self._has_turn:
            self._has_turn = False
            self.queue.leave()

    def commit(self) -> None:
        """As the driver's; a commit that fails leaves the transaction open, and keeps the turn."""
        try:
            super().commit()
        finally:
            if not self.in_transaction:
                self.pass_turn()

    def rollback(self) -> None:
        """As the driver's."""
        try:
            super().rollback()
        finally:
            if not self.in_transaction:
                self.pass_turn()

    def close(self) -> None:
        """As the driver's, which ends an open transaction."""
        try:
            super().close()
        finally:
            self.pass_turn()
