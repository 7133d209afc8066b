"""Tokens: what they look like, how they are stored, and what is done with the stored ones.

A token is ``fnt_``, a public id and 256 random bits. The prefix lets a person and a scanner of leaked secrets know one
on sight; the id finds its row. Only SHA-256 of the whole is stored. A slow hash (bcrypt, Argon2) protects what people
choose and others can guess; 256 random bits cannot be guessed at any speed, and a slow hash would be paid for at every
request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from fixnorm_core.errors import FixNormError
from service.access.scopes import Scope
from service.database.rows import TokenRow

__all__ = [
    "TOKEN_PATTERN",
    "TokenError",
    "TokenNotFound",
    "create",
    "digest_of",
    "exist",
    "find",
    "find_all",
    "id_in",
    "revoke",
    "same",
    "touch",
]

TOKEN_PATTERN = re.compile(r"fnt_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
"""What a whole token looks like; its group is the id."""

_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._@-]{0,98}[A-Za-z0-9._@-])?")


class TokenError(FixNormError):
    """A token cannot be made as asked."""

    code = "token"


class TokenNotFound(FixNormError):
    """There is no token of this id or name."""

    code = "token_not_found"


def create(
    session: Session, name: str, scope: Scope, *, now: datetime, lifetime: timedelta | None
) -> tuple[str, TokenRow]:
    """Makes a token.

    Args:
        session: One that may write.
        name: Whose it is: the user of the jobs that are submitted with it. Several tokens may have one name.
        scope: What it is good for.
        now: The time.
        lifetime: How long; None for ever.

    Returns:
        The token, which is told nowhere else and never again, and its row.

    Raises:
        TokenError: If the name is none.
    """
    if _NAME.fullmatch(name) is None:
        raise TokenError(
            f"token name {name!r} is not 1 to 100 letters, digits, spaces and . _ @ -, the first a letter or digit",
            "Name the person or the program that will use it, such as ann or nightly-ci",
        )
    token_id = secrets.token_hex(6)
    text = f"fnt_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    ends = now + lifetime if lifetime is not None else None
    row = TokenRow(id=token_id, name=name, scope=scope, digest=digest_of(text), created_at=now, expires_at=ends)
    session.add(row)
    return text, row


def digest_of(secret: str) -> str:
    """What is stored of a secret: SHA-256, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(digest: str, other: str) -> bool:
    """Whether two digests are one, in a time that does not tell where they differ."""
    return hmac.compare_digest(digest.encode(), other.encode())


def id_in(text: str) -> str | None:
    """The public id in what looks like a token."""
    match = TOKEN_PATTERN.fullmatch(text)
    return match.group(1) if match is not None else None


def find(session: Session, token_id: str) -> TokenRow | None:
    """One token, revoked ones too."""
    return session.get(TokenRow, token_id)


def find_all(session: Session) -> Sequence[TokenRow]:
    """All that there ever were, oldest first."""
    return session.scalars(select(TokenRow).order_by(TokenRow.created_at, TokenRow.id)).all()


def exist(session: Session, *, usable_at: datetime | None = None) -> bool:
    """Whether there has ever been a token; with a time, whether one can be used then."""
    query = select(func.count()).select_from(TokenRow)
    if usable_at is not None:
        query = query.where(TokenRow.revoked_at.is_(None))
        query = query.where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > usable_at))
    return bool(session.scalar(query))


def revoke(session: Session, which: str, *, now: datetime) -> Sequence[TokenRow]:
    """Ends the token of an id, or all of a name. Their sessions end with them.

    Returns:
        Those that were ended now.

    Raises:
        TokenNotFound: If there is none.
    """
    rows = session.scalars(select(TokenRow).where(or_(TokenRow.id == which, TokenRow.name == which))).all()
    if not rows:
        raise TokenNotFound(f"there is no token {which!r}", "`fixnorm-tune token list` shows ids and names")
    live = [row for row in rows if row.revoked_at is None]
    for row in live:
        row.revoked_at = now
    return live


def touch(session: Session, token_id: str, *, now: datetime) -> None:
    """Notes that a token was used."""
    session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used_at=now))
