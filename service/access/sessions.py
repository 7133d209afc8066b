"""Browser sessions: a random cookie in place of the token, which the browser then need not keep."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.access.tokens import digest_of
from service.database.rows import SessionRow

__all__ = ["LIFETIME", "begin", "end", "find"]

LIFETIME = timedelta(hours=12)
"""How long a session lasts, used or not."""


def begin(session: Session, *, token_id: str | None, admin_digest: str | None, now: datetime) -> str:
    """Stores a session of a token, or of the administrator's of the settings, and forgets those that are over.

    Returns:
        The cookie's value; only its digest is stored.
    """
    session.execute(delete(SessionRow).where(SessionRow.ends_at <= now))
    secret = secrets.token_urlsafe(32)
    row = SessionRow(
        digest=digest_of(secret), token_id=token_id, admin_digest=admin_digest, created_at=now, ends_at=now + LIFETIME
    )
    session.add(row)
    return secret


def find(session: Session, secret: str) -> SessionRow | None:
    """The session of a cookie, over or not."""
    return session.get(SessionRow, digest_of(secret))


def end(session: Session, secret: str) -> None:
    """Ends a session."""
    session.execute(delete(SessionRow).where(SessionRow.digest == digest_of(secret)))
