"""Keeps web pages of other sites away from a server that trusts everyone on this machine.

A page in the user's browser can send requests to loopback too. Under a host name of its own (DNS rebinding) it could
even read the answers, so only names of loopback are answered; and a request that changes something must not come from
a page of another origin.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.schemas import Problem

__all__ = ["LoopbackOnly"]

_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class LoopbackOnly:
    """An ASGI application that passes on to ``app`` what does not come from another site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        answer = _refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    headers = Headers(scope=scope)
    host, origin = headers.get("host", ""), headers.get("origin")
    if urlsplit(f"//{host}").hostname not in _NAMES:
        return _problem(f"the host name {host!r} is not one of this server's", "Use 127.0.0.1 or localhost")
    if origin is not None and scope["method"] not in _READING and urlsplit(origin).netloc != host:
        return _problem(f"a page of {origin} may not change anything here", "Use fixnorm-tune or the API directly")
    return None


def _problem(detail: str, way_out: str) -> JSONResponse:
    problem = Problem(title="Forbidden", status=403, code="not_from_here", detail=detail, way_out=way_out)
    return JSONResponse(problem.model_dump(mode="json"), 403, media_type="application/problem+json")
