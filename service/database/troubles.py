"""What a failed read or write says of the database, through whichever library it came."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy import make_url
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from fixnorm_core.disk import causes_of, full_disk, no_space_at

__all__ = ["DATABASE_ERRORS", "Trouble", "describe", "trouble_of"]

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)
"""What our tables and Optuna's storage raise when the database fails them."""

_NO_ROOM = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
"""The second is the index of the write-ahead log, which is made at the first connection."""

_DISK_FULL = "53100"  # PostgreSQL's SQLSTATE


class Trouble(StrEnum):
    """Why a database cannot be used now, though nothing is wrong with what was asked of it."""

    FULL = "disk_full"
    UNAVAILABLE = "database_unavailable"


def trouble_of(error: BaseException) -> Trouble | None:
    """The trouble behind an error; None when what was asked is at fault, or something else altogether."""
    found = None
    for cause in causes_of(error):
        if getattr(cause, "sqlite_errorname", None) in _NO_ROOM or getattr(cause, "sqlstate", None) == _DISK_FULL:
            return Trouble.FULL
        if isinstance(cause, (OperationalError, InterfaceError, NoConnectionFree)):
            found = Trouble.UNAVAILABLE
    return Trouble.FULL if full_disk(error) is not None else found


def describe(trouble: Trouble, error: BaseException, *, url: str) -> str:
    """Says for a person what the trouble is, without the database's password.

    Args:
        trouble: Of ``error``.
        error: What was raised.
        url: Of the database.
    """
    parsed = make_url(url)
    if trouble is Trouble.UNAVAILABLE:
        cause = next((cause for cause in causes_of(error) if isinstance(cause, OperationalError)), error)
        said = str(getattr(cause, "orig", cause)).strip()
        return f"the database {parsed!r} cannot be used now: {said.splitlines()[0] if said else type(cause).__name__}"
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return f"the database cannot be written: {no_space_at(Path(parsed.database))}"
    return f"the database cannot be written: no space left on the disk of {parsed!r}"
