"""The one place where a request is let through or not, whatever part of the application answers it."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote, urlsplit

import structlog
from sqlalchemy.orm import Session
from starlette.authentication import AuthenticationError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.browsers import shows_a_page
from service.access.callers import Access, Caller, Refused, TokenBackend, address_of, owner_of
from service.access.scopes import Scope as Allowed
from service.access.scopes import need_of
from service.answers import answer_problem
from service.database.rows import JobRow
from service.database.troubles import DATABASE_ERRORS, Trouble, describe, trouble_of
from service.schemas import Problem

__all__ = ["guarded"]

log = structlog.get_logger(__name__)


def guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """``app`` behind its gate."""

    def on_database_error(path: str, error: BaseException) -> Refused:
        trouble = trouble_of(error) or Trouble.UNAVAILABLE
        detail = describe(trouble, error, url=access.database.url)
        log.warning("request.refused", path=path, reason=detail)
        way_out = "Ask again in a moment; the server goes on by itself once it has its database back"
        return Refused(HTTPStatus.SERVICE_UNAVAILABLE, trouble, detail, way_out, retry_seconds=5)

    return AuthenticationMiddleware(
        _Gate(app, access), backend=TokenBackend(access, on_database_error=on_database_error), on_error=_on_error
    )


class _Gate:
    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (answer := await self._refusal(scope)) is not None:
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        conn = HTTPConnection(scope)
        need, values = need_of(scope["method"], scope["path"])
        if need.scope is None or scope["path"] in self._access.open_paths:
            return None
        caller = conn.user
        if not isinstance(caller, Caller):
            return _stranger(conn, scope["method"])
        if not caller.scope.covers(need.scope):
            return _forbidden(
                f"{scope['method']} {scope['path']} needs the scope {need.scope}, and the token of "
                f"{caller.display_name} has {caller.scope}",
                f"Use a token that has it: fixnorm-tune token create NAME --scope {need.scope}",
            )
        if not need.own_job or caller.scope is Allowed.ADMIN:
            return None
        try:
            found, owner = await run_in_threadpool(self._owner, values["job_id"])
        except DATABASE_ERRORS:
            return None  # whoever answers next meets the same, and says it well
        if not found or caller.may_change(owner):
            return None
        return _forbidden(
            f"{values['job_id']} is {owner or 'nobody'}'s job, and this is the token of {caller.display_name}",
            "Its user can change it, and so can an administrator",
        )

    def _owner(self, job_id: str) -> tuple[bool, str | None]:
        session: Session
        with self._access.database.read() as session:
            job = session.get(JobRow, job_id)
        return (True, owner_of(job)) if job is not None else (False, None)


def _stranger(conn: HTTPConnection, method: str) -> Response:
    """A browser is led to the page where one logs in; a program is told what to send."""
    way_in = f"/login?next={quote(_wanted(conn), safe='/')}"
    if method == "GET" and shows_a_page(conn):
        return RedirectResponse(way_in, HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})
    refused = Refused(
        HTTPStatus.UNAUTHORIZED,
        "not_authenticated",
        "this server answers only those who send a token",
        "Log in at /login, or give fixnorm-tune one: 'fixnorm-tune login', FIXNORM_TOKEN or --token",
    )
    answer = _answer(refused)
    answer.headers["HX-Redirect"] = way_in  # a part of a page that wants to renew itself takes the page there
    return answer


def _wanted(conn: HTTPConnection) -> str:
    page = conn.headers.get("hx-current-url")
    target = urlsplit(page) if page is not None else conn.url
    return target.path + (f"?{target.query}" if target.query else "")


def _forbidden(detail: str, way_out: str) -> JSONResponse:
    return _answer(Refused(HTTPStatus.FORBIDDEN, "not_allowed", detail, way_out))


def _on_error(conn: HTTPConnection, error: AuthenticationError) -> Response:
    assert isinstance(error, Refused)
    log.info("access.refused", address=address_of(conn), path=conn.url.path, reason=error.problem.code)
    return _answer(error)


def _answer(refused: Refused) -> JSONResponse:
    problem: Problem = refused.problem
    headers = {"Cache-Control": "no-store"}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        wrong = "" if problem.code == "not_authenticated" else ', error="invalid_token"'
        headers["WWW-Authenticate"] = f'Bearer realm="fixnorm-tune"{wrong}'
    if refused.retry_seconds is not None:
        headers["Retry-After"] = str(refused.retry_seconds)
    return answer_problem(problem, headers=headers)
