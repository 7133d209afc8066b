"""Opens Optuna's storage in our database: one to write with, one that cannot."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import Engine, create_engine, pool

from service.database.connections import engine_options, make_safe
from service.studies.mirror import Mirror

__all__ = [
    "close_storage",
    "engine_of",
    "is_up_to_date",
    "open_mirror",
    "open_reading_storage",
    "open_scratch",
    "open_writing_storage",
    "upgrade_tables",
]


def open_mirror(url: str) -> Mirror:
    """The storage for the dispatcher, as its only writer, with Optuna's tables made."""
    return Mirror(_open(url, read_only=False))


def open_scratch() -> Mirror:
    """The same, in memory, of its own: what is asked there is known nowhere else."""
    return Mirror(RDBStorage("sqlite://", engine_kwargs={"poolclass": pool.StaticPool}))


def open_writing_storage(url: str) -> BaseStorage:
    """A storage for any number of writers, with Optuna's tables made; on SQLite every transaction is a write's."""
    return get_storage(_open(url, read_only=False))


def open_reading_storage(url: str) -> BaseStorage:
    """A storage for the API and the dashboard; the database itself refuses its writes.

    Optuna's tables must exist.
    """
    return get_storage(_open(url, read_only=True))


def is_up_to_date(url: str) -> bool:
    """Whether Optuna's tables are there and as this release of Optuna wants them.

    Changes nothing, unlike a storage that is opened: that notes its version where none is, and two at once collide.
    """
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == _newest_versions()


def upgrade_tables(url: str) -> None:
    """Makes Optuna's tables, or brings them to what this release of Optuna wants."""
    storage = RDBStorage(url, engine_options(url), skip_compatibility_check=True)
    try:
        storage.upgrade()
    finally:
        close_storage(storage)


def close_storage(storage: BaseStorage) -> None:
    """Closes its connections; Optuna itself only lets go of the calling thread's session."""
    storage.remove_session()
    engine_of(storage).dispose()


def engine_of(storage: BaseStorage) -> Engine:
    """What a storage that was opened here works on."""
    inner = getattr(storage, "_backend", storage)  # a cache or a mirror is around it
    assert isinstance(inner, RDBStorage)
    return inner.engine


def _open(url: str, *, read_only: bool) -> RDBStorage:
    storage = RDBStorage(
        url,
        engine_kwargs=engine_options(url),
        skip_compatibility_check=True,  # below, and faster
        skip_table_creation=read_only,
    )
    if storage.get_current_version() not in _newest_versions():
        storage.engine.dispose()
        storage = RDBStorage(url, engine_kwargs=engine_options(url), skip_table_creation=read_only)  # says what to do
    make_safe(storage.engine, read_only=read_only)
    return storage


@cache
def _newest_versions() -> frozenset[str]:
    """What this release of Optuna calls its newest tables. It loads all its migrations to tell."""
    scripts = ScriptDirectory(str(Path(inspect.getfile(RDBStorage)).parent / "alembic"))
    return frozenset(scripts.get_heads())
