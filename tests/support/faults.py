"""A database that fails and a process that dies, at any statement and at any commit, by the roll of a die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import optuna.storages._rdb.storage as optuna_storage
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import OperationalError


class Crash(BaseException):
    """The process dies here."""


class Faults:
    """Strikes while it is on.

    Attributes:
        on: Whether it does.
        crash: The chance that the process dies at a statement or a commit.
        error: The chance that the database fails there. Half of the commits that fail have been made all the same.
        struck: How often each has happened.
    """

    def __init__(self, random: Random, *, crash: float, error: float) -> None:
        self.on = False
        self.crash = crash
        self.error = error
        self.struck = {"crash": 0, "error": 0, "error after commit": 0}
        self._random = random

    @contextmanager
    def installed(self) -> Iterator[Faults]:
        """Reaches every engine of this process, Optuna's too."""
        with pytest.MonkeyPatch.context() as patched:
            commit = DefaultDialect.do_commit

            def do_commit(dialect: DefaultDialect, connection: Any) -> None:
                after = self._random.random() < 0.5
                if not after:
                    self._strike("error", dialect)
                commit(dialect, connection)
                if after:
                    self._strike("error after commit", dialect)

            patched.setattr(DefaultDialect, "do_commit", do_commit)
            # Optuna waits up to two seconds before it tries to create a trial again
            patched.setattr(optuna_storage, "time", SimpleNamespace(sleep=lambda _seconds: None))
            event.listen(Engine, "before_cursor_execute", self._before)
            try:
                yield self
            finally:
                event.remove(Engine, "before_cursor_execute", self._before)

    def _before(self, *_: Any) -> None:
        if self.on and self._random.random() < self.error:
            self.struck["error"] += 1
            raise OperationalError("injected", None, Exception("the database failed"))
        self._die()

    def _strike(self, name: str, dialect: DefaultDialect) -> None:
        if self.on and self._random.random() < self.error:
            self.struck[name] += 1
            driver: Any = dialect.loaded_dbapi
            raise driver.OperationalError("the database failed")
        self._die()

    def _die(self) -> None:
        if self.on and self._random.random() < self.crash:
            self.struck["crash"] += 1
            raise Crash
