"""Signs messages as Standard Webhooks 1.0 has it (standardwebhooks.com): any library for it verifies them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from datetime import datetime
from pathlib import Path

from fixnorm_core.errors import FixNormError

__all__ = ["BadSecret", "load_secret", "signed_headers"]

_PREFIX = "whsec_"
_FEWEST_BYTES, _MOST_BYTES = 24, 64


class BadSecret(FixNormError):
    """A secret that nobody could verify with, or that is too short to be one."""

    code = "bad_webhook_secret"


def load_secret(given: str | None, *, file: Path) -> str:
    """The secret of this server: the one given, else that in ``file``, which is made at the first call.

    Raises:
        BadSecret: It is not ``whsec_`` and 24 to 64 bytes in base64.
    """
    if given is None and not file.exists():
        _make(file)
    secret = given if given is not None else file.read_text(encoding="ascii").strip()
    _key(secret)
    return secret


def _make(file: Path) -> None:
    half = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    try:
        os.link(half, file)  # whole or not at all, and only where no other server has made one meanwhile
    except FileExistsError:
        pass
    finally:
        half.unlink()


def signed_headers(secret: str, *, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers that a receiver verifies: HMAC-SHA256 over ``id.timestamp.body``.

    Args:
        secret: Of the server, as :func:`load_secret` gives it.
        message_id: The same for every try of one message.
        at: The time of this try; a receiver refuses an old one, which may be a replay.
        body: As it is sent.
    """
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{digest}"}


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(_PREFIX) or not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        raise BadSecret(
            "the webhook secret is not 'whsec_' and 24 to 64 bytes in base64",
            "Leave FIXNORM_WEBHOOK_SECRET out, and one is made in the state folder; or make one with "
            "`echo whsec_$(openssl rand -base64 32)`",
        )
    return key
