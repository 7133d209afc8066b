"""Opens the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from service.database.connections import engine_options, make_safe

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
        """Opens the database at a canonical URL (an SQLite file that is missing is made).

        Its tables are made by :mod:`service.database.migrate`.
        """
        writer = _engine(url, read_only=False)
        reader = _engine(url, read_only=True)
        return cls(url, sessionmaker(writer, expire_on_commit=False), sessionmaker(reader, expire_on_commit=False))

    @property
    def engines(self) -> dict[str, Engine]:
        """What ``write`` and ``read`` work on."""
        return {"write": self.write.kw["bind"], "read": self.read.kw["bind"]}

    def is_below(self, folder: Path) -> bool:
        """Whether this is an SQLite file in a folder, or below it."""
        url = make_url(self.url)
        is_file = url.get_backend_name() == "sqlite" and url.database
        return bool(is_file) and Path(str(url.database)).resolve().is_relative_to(folder.resolve())

    def close(self) -> None:
        """Closes all connections."""
        for engine in self.engines.values():
            engine.dispose()


def _engine(url: str, *, read_only: bool) -> Engine:
    engine = create_engine(url, **engine_options(url))
    make_safe(engine, read_only=read_only)
    return engine
