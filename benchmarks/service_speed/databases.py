"""The databases to measure on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from postgres import Postgres, find_binaries, running

__all__ = ["databases", "empty_database"]


@contextmanager
def databases() -> Iterator[Mapping[str, Postgres | None]]:
    """SQLite, which needs no server, and a PostgreSQL where its programs are installed, by name."""
    binaries = find_binaries()
    if binaries is None:
        print("PostgreSQL's programs are not on this machine: its rows are left out")
        yield {"SQLite": None}
        return
    with running(binaries) as server:
        yield {"SQLite": None, "PostgreSQL": server}


@contextmanager
def empty_database(folder: Path, postgres: Postgres | None) -> Iterator[str]:
    """The URL of a new SQLite file, or of a database of ``postgres``."""
    if postgres is None:
        yield f"sqlite:///{folder / 'fixnorm.db'}"
        return
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)
