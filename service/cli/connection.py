"""Connects a command to its server, with the token that belongs to it.

The token is that of ``--token``, else of ``FIXNORM_TOKEN``, else the one that ``fixnorm-tune login`` kept for this very
server: a kept token is sent to no other.
"""

from __future__ import annotations

import json
import os
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fixnorm_core.errors import FixNormError

if TYPE_CHECKING:
    import httpx

    from service.client import Client

__all__ = [
    "TokensFileError",
    "connect",
    "forget_token",
    "given_token",
    "has_token",
    "keep_token",
    "page",
    "tokens_file",
]

given_token: ContextVar[str | None] = ContextVar("given_token", default=None)
"""What ``--token`` or ``FIXNORM_TOKEN`` says."""


class TokensFileError(FixNormError):
    """The file of kept tokens cannot be read."""

    code = "tokens_file"


def connect(server: str, *, timeout: timedelta = timedelta(seconds=30)) -> Client:
    """A client of the server at this address; ``timeout`` is the longest wait for a connection or an answer.

    Raises:
        BadServerAddressError: If it is no address.
        TokensFileError: If the file of kept tokens cannot be read.
    """
    from service.client import Client

    return Client(server, timeout=timeout, token=_token_for(server))


def page(server: str, path: str, *, timeout: timedelta = timedelta(seconds=30)) -> httpx.Response:
    """What a browser with the same token would be shown at the end of all redirects.

    Raises:
        BadServerAddressError: As for :func:`connect`, and TokensFileError too.
        httpx.HTTPError: If nothing answers, or redirects have no end.
    """
    import httpx

    from service.client.address import Connection

    connection = Connection(server, token=_token_for(server), timeout=timeout)
    with httpx.Client(**connection.options, follow_redirects=True) as client:
        return client.get(path, headers={"Accept": "text/html"})


def tokens_file() -> Path:
    """Where tokens are kept, for this user alone to read."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fixnorm-tune" / "tokens.json"


def keep_token(server: str, token: str) -> Path:
    """Keeps a token for a server; returns the file."""
    path = tokens_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _kept() | {server.rstrip("/"): token})
    return path


def forget_token(server: str) -> bool:
    """Forgets a server's token; whether there was one."""
    kept = _kept()
    if kept.pop(server.rstrip("/"), None) is None:
        return False
    _write(tokens_file(), kept)
    return True


def has_token(server: str) -> bool:
    """Whether a token is sent to this server."""
    return _token_for(server) is not None


def _token_for(server: str) -> str | None:
    return given_token.get() or _kept().get(server.rstrip("/"))


def _kept() -> dict[str, str]:
    path = tokens_file()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokensFileError(f"{path} cannot be read: {error}", "Mend it, or remove it and log in again") from error
    if not isinstance(kept, dict):
        raise TokensFileError(f"{path} holds no tokens by server", "Remove it and log in again")
    return {str(server): str(token) for server, token in kept.items()}


def _write(path: Path, kept: dict[str, str]) -> None:
    half = path.with_name(f"{path.name}.part")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=2)
    half.replace(path)
