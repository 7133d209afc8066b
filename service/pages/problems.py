"""Problems as pages, for whoever looks at them in a browser; programs have them as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.browsers import shows_a_page
from service.access.callers import Caller
from service.answers import PROBLEM_TYPE
from service.pages.rendering import render
from service.schemas import Problem

__all__ = ["ProblemPages"]

_TITLES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "Log in first",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.CONFLICT: "Not possible now",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not possible now",
}
_OWN_HEADERS = frozenset({"content-length", "content-type", "content-security-policy", "cache-control"})


class ProblemPages:
    """An ASGI application that passes on the answers of ``app``, its problems as pages where a browser shows them.

    Whatever part of the application refuses a request, the gate or a handler, says so as a problem; all meet here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "POST") or not shows_a_page(HTTPConnection(scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None  # of a problem, which is kept back until it is whole
        body = b""

        async def send_page(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    page = _page(scope, Problem.model_validate_json(body), MutableHeaders(scope=start))
                    await page(scope, receive, send)

        await self._app(scope, receive, send_page)


def _is_problem(start: Message) -> bool:
    return MutableHeaders(scope=start).get("content-type", "").startswith(PROBLEM_TYPE)


def _page(scope: Scope, problem: Problem, headers: MutableHeaders) -> Response:
    default = "Not possible" if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else "Something went wrong"
    caller = scope.get("user")
    known = {"caller": caller} if isinstance(caller, Caller) else {}
    page = render(
        "problem.html",
        status=problem.status,
        title=_TITLES.get(problem.status, default),
        problem=problem,
        back=_back(scope["path"], problem.status),
        **known,
    )
    page.headers.update({name: value for name, value in headers.items() if name not in _OWN_HEADERS})
    return page


def _back(path: str, status: int) -> str:
    """The page of the job that a path is of, where there may be one."""
    of_job = re.match(r"/jobs/[^/]+(?=/)", path)
    return quote(of_job[0]) if of_job is not None and status != HTTPStatus.NOT_FOUND else "/"
