"""Keeps web pages of other sites away.

A page in the user's browser can send requests to this server too, and the browser adds the user's cookie, or reaches a
server on loopback that trusts everyone on its machine. So a request that changes something must not come from a page of
another origin. Under a host name of its own (DNS rebinding) such a page could even read the answers of a server that
asks nobody who they are, so that one answers to names of loopback only; a cookie is bound to its host and needs no such
care.

What browsers say: https://www.w3.org/TR/fetch-metadata/ where the connection is secure, and ``Origin`` with every
request that changes something.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import answer_problem
from service.schemas import Problem

__all__ = ["SameOrigin"]

_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class SameOrigin:
    """An ASGI application that passes on to ``app`` what does not come from another site."""

    def __init__(self, app: ASGIApp, *, open_to_all: bool) -> None:
        """Keeps two facts.

        Args:
            app: The application.
            open_to_all: Whether it asks nobody who they are.
        """
        self._app, self._open = app, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._open and _hostname(host) not in _NAMES:
            return _problem(f"the host name {host!r} is not one of this server's", "Use 127.0.0.1 or localhost")
        if scope["method"] in _READING or _comes_from_here(headers, host):
            return None
        origin = headers.get("origin") or "another site, or of none"
        return _problem(f"a page of {origin} may not change anything here", "Use fixnorm-tune or the API directly")


def _hostname(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:  # such as an unfinished IPv6 address
        return None


def _comes_from_here(headers: Headers, host: str) -> bool:
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    if (origin := headers.get("origin")) is not None:
        return urlsplit(origin).netloc == host
    # No browser, then; but a browser's cookie without a word on where it comes from is not believed.
    return "cookie" not in headers or "authorization" in headers


def _problem(detail: str, way_out: str) -> JSONResponse:
    status = HTTPStatus.FORBIDDEN
    problem = Problem(title=status.phrase, status=status, code="not_from_here", detail=detail, way_out=way_out)
    return answer_problem(problem)
