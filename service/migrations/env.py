"""Alembic's entry point; run by :mod:`service.database.migrate`, never on its own."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import create_engine, pool

from service.database.migrate import VERSION_TABLE
from service.database.rows import Base


def _is_ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    return kind != "table" or name in Base.metadata.tables


def _run() -> None:
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            version_table=VERSION_TABLE,
            include_object=_is_ours,
            render_as_batch=True,
        )
        with context.begin_transaction():
            context.run_migrations()


_run()
