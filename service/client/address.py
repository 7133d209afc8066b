"""Which server, and with which token."""

from __future__ import annotations

import ipaddress
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx

from service.client.errors import BadCertificatesError, BadServerAddressError, BadTokenError
from service.default_address import DEFAULT_SERVER

if TYPE_CHECKING:
    import ssl

__all__ = ["Connection"]


class Connection:
    """What both clients are told, checked.

    Attributes:
        server: The server's address, without a slash at its end.
        options: For an ``httpx`` client of either kind.
    """

    def __init__(self, server: str | None, *, token: str | None, timeout: timedelta) -> None:
        """Takes what is None from ``FIXNORM_SERVER`` and ``FIXNORM_TOKEN``.

        Raises:
            BadServerAddressError: The address is no http or https URL.
            BadCertificatesError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` holds no certificates.
            BadTokenError: The token has signs that none has, such as a line's end.
        """
        address = server if server is not None else os.environ.get("FIXNORM_SERVER") or DEFAULT_SERVER
        token = token if token is not None else os.environ.get("FIXNORM_TOKEN") or None
        self.server = address.rstrip("/")
        self._timeout = timeout.total_seconds()
        self.options: dict[str, Any] = {
            "base_url": self.server,
            "timeout": self._timeout,
            # A proxy of the environment cannot know this machine's own servers.
            "trust_env": not _is_loopback(_host_of(self.server)),
            "verify": _trusted() if self.server.startswith("https:") else True,
            "headers": {"Authorization": f"Bearer {_sendable(token)}"} if token is not None else None,
        }

    def timeout(self, silence: float | None) -> httpx.Timeout:
        """Of a stream that may be silent for so long, in seconds; None for as long as any answer."""
        return httpx.Timeout(self._timeout, read=self._timeout if silence is None else silence)


def _host_of(server: str) -> str:
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL:
        raise BadServerAddressError(server) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadServerAddressError(server)
    return url.host


def _trusted() -> ssl.SSLContext | bool:
    """Authorities of the environment, as httpx reads them, which on loopback it would not; True for the usual ones."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    except OSError as error:  # of OpenSSL too
        raise BadCertificatesError(file or str(folder), error.strerror or str(error)) from error


def _sendable(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise BadTokenError
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
