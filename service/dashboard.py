"""The Optuna dashboard at ``/dashboard``, for reading only.

It works only at the root of a host: its pages ask for ``/static``, ``/csv``, ``/artifacts`` and ``/api/...`` by
absolute paths. So exactly those paths go to it, and everything else to our own application. It has no authentication,
and its writing routes can delete a study under a running job, so only GET and HEAD get through; below that, the storage
it is given cannot write either.
"""

from __future__ import annotations

import re

import optuna_dashboard
from a2wsgi import WSGIMiddleware
from optuna.storages import BaseStorage
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import answer_problem
from service.schemas import Problem

__all__ = ["WithDashboard"]

_ITS_PATHS = re.compile(
    r"/dashboard(/.*)?|/(static|csv|artifacts)/.*|/favicon\.ico"
    r"|/api/(meta|studies|trials|artifacts|llm|compare-studies)(/.*)?"
)


class WithDashboard:
    """An ASGI application that serves ``app`` and, beside it, the dashboard of ``storage``."""

    def __init__(self, app: ASGIApp, storage: BaseStorage) -> None:
        self._app = app
        self._dashboard: ASGIApp = WSGIMiddleware(optuna_dashboard.wsgi(storage), workers=4)  # type: ignore[assignment]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http" or not _ITS_PATHS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await _refused(scope["method"], scope["path"])(scope, receive, send)
        else:
            # Its static files answer 500 to a request that names no encodings at all.
            MutableHeaders(scope=scope).setdefault("accept-encoding", "identity")
            await self._dashboard(scope, receive, send)


def _refused(method: str, path: str) -> JSONResponse:
    problem = Problem(
        title="Method Not Allowed",
        status=405,
        code="dashboard_is_read_only",
        detail=f"{method} {path} would change a study behind the dispatcher's back; the dashboard is for reading",
        way_out="Change jobs through /api/v1/jobs or `fixnorm-tune`",
    )
    return answer_problem(problem, headers={"allow": "GET, HEAD"})
