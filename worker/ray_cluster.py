"""Joins a Ray cluster that is there already. Looks for it first, since Ray takes minutes to say that nobody answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from worker.contracts import Backend

__all__ = ["join_cluster", "look_for"]

_LOOK_SECONDS = 5.0


def join_cluster(address: str, namespace: str, patience_seconds: float) -> Backend:
    """The backend of a cluster; the arguments are those of :class:`~worker.ray_backend.RayBackend`.

    Raises:
        ConnectionError: If nobody answers there, or Ray is not let in.
    """
    look_for(address)
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = (
            "token"  # Ray's own default for a cluster that it starts, but not for one it joins
        )
    from worker.ray_backend import RayBackend  # only now: the mode is read when Ray is imported

    return RayBackend(address, namespace=namespace, patience_seconds=patience_seconds)


def look_for(address: str) -> None:
    """Makes sure that somebody listens at ``HOST:PORT``; names such as ``auto`` are left to Ray.

    Raises:
        ConnectionError: If nobody does.
    """
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
    except ValueError as error:
        raise ConnectionError(f"{address!r} is not HOST:PORT") from error
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=_LOOK_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers at {host}:{port} ({error})") from None


def _has_token() -> bool:
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return given or (Path.home() / ".ray" / "auth_token").exists()
