"""Opens the database."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from service.database.sqlite import BUSY_SECONDS, make_safe

__all__ = ["Database"]


@dataclass(frozen=True, slots=True)
class Database:
    """Sessions on one database. Each is used by one thread; transactions are short and do no other work inside.

    Attributes:
        url: SQLAlchemy URL.
        write: Makes sessions that may write.
        read: Makes sessions that may not.
    """

    url: str
    write: sessionmaker[Session]
    read: sessionmaker[Session]

    @classmethod
    def open(cls, url: str) -> Database:
        """Opens (and with SQLite creates) the database; its tables are made by :mod:`service.database.migrate`."""
        writer = _engine(url, read_only=False)
        reader = _engine(url, read_only=True) if writer.dialect.name == "sqlite" else writer
        return cls(url, sessionmaker(writer, expire_on_commit=False), sessionmaker(reader, expire_on_commit=False))

    def close(self) -> None:
        """Closes all connections."""
        for maker in (self.write, self.read):
            maker.kw["bind"].dispose()


def _engine(url: str, *, read_only: bool) -> Engine:
    connect_args = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
    engine = create_engine(url, connect_args=connect_args, pool_pre_ping=not url.startswith("sqlite"))
    make_safe(engine, read_only=read_only)
    return engine
