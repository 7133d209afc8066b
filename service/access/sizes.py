"""Refuses a request that is larger than the server reads.

Starlette counts what comes; what a request says of its own length is judged here, before anything is read, since the
answer that Starlette puts in that place is no problem details and passes every handler above as an unknown error.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import answer_problem
from service.schemas import Problem

__all__ = ["SizeLimit"]


class SizeLimit:
    """An ASGI application that passes on to ``app`` requests of at most so many bytes."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        """Keeps the limit.

        Args:
            app: The application; reading too much of a request that did not tell its length raises there, as an
                ``HTTPException`` of status 413.
            limit: The largest body, in bytes.
        """
        self._app, self._limit = RequestBodyLimitMiddleware(app, limit), limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        told = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        too_large = told.isdecimal() and int(told) > self._limit
        await (self._refusal(told) if too_large else self._app)(scope, receive, send)

    def _refusal(self, told: str) -> JSONResponse:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        problem = Problem(
            title=status.phrase,
            status=status,
            code="request_too_large",
            detail=f"the request has {told} bytes, and this server reads at most {self._limit}",
            way_out="Send less, or let the server read more: FIXNORM_MAX_REQUEST_BYTES",
        )
        # The body stays unread, so the connection cannot carry another request
        return answer_problem(problem, headers={"Connection": "close"})
