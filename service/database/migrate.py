"""Brings our tables to the newest schema. Optuna looks after its own."""

from __future__ import annotations

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config

__all__ = ["VERSION_TABLE", "upgrade"]

VERSION_TABLE = "fixnorm_alembic_version"
"""Not alembic's default name: Optuna's tables in the same database use that one."""


def upgrade(url: str) -> None:
    """Runs every migration that the database has not seen yet; safe to run again."""
    with as_file(files("service") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["url"] = url
        command.upgrade(config, "head")
