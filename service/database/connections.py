"""How connections are opened and set up, for our tables and for Optuna's alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from service.database import postgres, sqlite
from service.database.write_queue import QueuedConnection

__all__ = ["canonical_url", "engine_options", "make_safe"]

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def canonical_url(url: str) -> str:
    """The URL with the driver that this software uses; ``postgres://`` and ``postgresql://`` mean PostgreSQL.

    Raises:
        ValueError: If it is no URL, or names another database or driver. The message does not repeat the password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(f"it is no database URL; write {_EXAMPLES}") from None
    if parsed.drivername not in _DRIVERS:
        raise ValueError(f"{parsed.drivername!r} is not a database that this server can use; write {_EXAMPLES}")
    return parsed.set(drivername=_DRIVERS[parsed.drivername]).render_as_string(hide_password=False)


_EXAMPLES = "postgresql://user:password@host/database, or sqlite:////absolute/path.db"


def engine_options(url: str) -> dict[str, Any]:
    """Arguments of ``create_engine`` for a canonical URL."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": sqlite.BUSY_SECONDS, "factory": QueuedConnection}}
    # A pooled connection that a restart of the database has cut is noticed before it is used.
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": postgres.CONNECT_SECONDS}}


def make_safe(engine: Engine, *, read_only: bool) -> None:
    """Sets an engine up for writing or for reading. Connections that it has opened before are thrown away."""
    if engine.dialect.name == "sqlite":
        sqlite.make_safe(engine, read_only=read_only)
    else:
        postgres.make_safe(engine, read_only=read_only)
