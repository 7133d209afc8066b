"""Opens Optuna's storage in our database: one to write with, one that cannot."""

from __future__ import annotations

from optuna.storages import BaseStorage, RDBStorage, get_storage

from service.database.sqlite import BUSY_SECONDS, make_safe

__all__ = ["open_reading_storage", "open_writing_storage"]


def open_writing_storage(url: str) -> BaseStorage:
    """The storage for the dispatcher, with Optuna's tables made; on SQLite every transaction takes the write lock."""
    return _open(url, read_only=False)


def open_reading_storage(url: str) -> BaseStorage:
    """A storage for the API and the dashboard; on SQLite the database itself refuses its writes.

    Optuna's tables must exist.
    """
    return _open(url, read_only=True)


def _open(url: str, *, read_only: bool) -> BaseStorage:
    engine_kwargs = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = RDBStorage(url, engine_kwargs=engine_kwargs, skip_table_creation=read_only)
    make_safe(storage.engine, read_only=read_only)
    return get_storage(storage)
