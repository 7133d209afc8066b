"""Whether a server that does not answer by http speaks https, or the other way round."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import httpx

from service.client.errors import ServerUnreachableError, WrongSchemeError, cause_of

if TYPE_CHECKING:
    from service.client.address import Connection

__all__ = ["unreachable"]

_PROBE_SECONDS = 2.0
_ENDED = (httpx.RemoteProtocolError, httpx.ReadError)
"""What a TLS port does to a request in the clear."""


def unreachable(connection: Connection, error: httpx.TransportError) -> ServerUnreachableError:
    """Why there was no answer. Where it may be the address' scheme, its port is asked for the other one."""
    server, cause = connection.server, cause_of(error)
    scheme = httpx.URL(server).scheme
    if scheme == "http":
        is_wrong = isinstance(error, _ENDED) and _speaks_tls(server)
    else:
        is_wrong = any(words in cause for words in _NO_TLS)
    if is_wrong:
        return WrongSchemeError(server, cause)
    return ServerUnreachableError(server, cause)


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""OpenSSL's words for an answer that is no TLS."""


def _speaks_tls(server: str) -> bool:
    url = httpx.URL(server)
    anybody = ssl.create_default_context()  # nothing is sent, so it matters not who that is
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((url.host, url.port or 80), timeout=_PROBE_SECONDS) as plain,
            anybody.wrap_socket(plain, server_hostname=url.host),
        ):
            return True
    except OSError:
        return False
