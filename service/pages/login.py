"""``/login`` and ``/logout``: a browser trades a token for a session's cookie."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from service.access.callers import Refused, address_of, cookie_name
from service.access.sessions import LIFETIME
from service.pages.rendering import render
from service.runtime import Running

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/login", response_class=HTMLResponse)
def show_login(running: Running, next: str = "/") -> Response:
    """Asks for a token."""
    if not running.access.required:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return render("login.html", next=_local(next), refusal=None)


@router.post("/login", response_class=HTMLResponse)
async def log_in(running: Running, request: Request) -> Response:
    """Begins a session and goes where the browser wanted to; or asks again."""
    if not running.access.required:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    fields = parse_qs((await request.body()).decode(errors="replace"))
    token, target = fields.get("token", [""])[0].strip(), _local(fields.get("next", ["/"])[0])
    try:
        cookie = await run_in_threadpool(running.access.log_in, token, address=address_of(request))
    except Refused as refused:
        answer: Response = render(
            "login.html", status=refused.problem.status, next=target, refusal=refused.problem.detail
        )
        if refused.retry_seconds is not None:
            answer.headers["Retry-After"] = str(refused.retry_seconds)
        return answer
    answer = RedirectResponse(target, HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        cookie_name(request),
        cookie,
        max_age=int(LIFETIME.total_seconds()),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",  # a link in a message still opens a job's page; what changes something is checked by its origin
    )
    return answer


@router.post("/logout", response_class=RedirectResponse)
def log_out(running: Running, request: Request) -> RedirectResponse:
    """Ends the session, here and in the browser."""
    name = cookie_name(request)
    if (cookie := request.cookies.get(name)) is not None:
        running.access.log_out(cookie)
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(name, path="/", secure=request.url.scheme == "https", httponly=True, samesite="lax")
    return answer


def _local(target: str) -> str:
    """A path of this server, whatever was asked for: a login must not lead to another site."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and "\\" not in target else "/"
