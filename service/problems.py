"""Errors as RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from fixnorm_core.data.store import BucketDown
from fixnorm_core.errors import DataError, FixNormError, ModelError, SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import JobSpec
from service.answers import answer_problem
from service.database.troubles import DATABASE_ERRORS, Trouble, describe, trouble_of
from service.schemas import FieldProblem, Problem

__all__ = [
    "BadCursor",
    "Gone",
    "KeyReused",
    "NoResultYet",
    "NotFound",
    "NotReady",
    "NotYourName",
    "ResourcesNeverFree",
    "VerbImpossible",
    "install",
]

log = structlog.get_logger(__name__)


class NotFound(FixNormError):
    """No such thing."""

    code = "not_found"

    @classmethod
    def job(cls, job_id: str) -> NotFound:
        """A job that is not there."""
        return cls(f"there is no job {job_id!r}", "`fixnorm-tune list` shows all jobs")


class Gone(FixNormError):
    """A file that a job has left was removed, or was not restored."""

    code = "gone"


class BadCursor(FixNormError):
    """A page was asked for that no page before it has named."""

    code = "bad_cursor"


class NoResultYet(FixNormError):
    """Asked for too early."""

    code = "no_result_yet"


class KeyReused(FixNormError):
    """An idempotency key came again with another job."""

    code = "idempotency_key_reused"


class ResourcesNeverFree(FixNormError):
    """A trial asks for more than the cluster has."""

    code = "resources_never_free"


class NotReady(FixNormError):
    """The server answers, but cannot do its work now."""

    code = "not_ready"


class NotYourName(FixNormError):
    """A job was submitted in somebody else's name."""

    code = "not_allowed"


class VerbImpossible(FixNormError):
    """A job's state has no room for what was asked of it."""

    code = "verb_impossible"


_STATUS: dict[type[FixNormError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    BadCursor: HTTPStatus.UNPROCESSABLE_ENTITY,
    Gone: HTTPStatus.GONE,
    NoResultYet: HTTPStatus.CONFLICT,
    KeyReused: HTTPStatus.CONFLICT,
    VerbImpossible: HTTPStatus.CONFLICT,
    NotYourName: HTTPStatus.FORBIDDEN,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    ResourcesNeverFree: HTTPStatus.UNPROCESSABLE_ENTITY,
    SpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ModelError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BucketDown: HTTPStatus.SERVICE_UNAVAILABLE,
}


def install(app: FastAPI) -> None:
    """Has the app answer every error as a problem."""
    app.add_exception_handler(FixNormError, _on_known)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    for kind in (*DATABASE_ERRORS, OSError):
        app.add_exception_handler(kind, _on_trouble)
    app.add_exception_handler(Exception, _on_bug)


async def _on_known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FixNormError)
    status = next((_STATUS[kind] for kind in type(error).mro() if kind in _STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    return _answer(status, detail=error.rule, code=error.code, way_out=error.way_out)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = _broken_rules(error)
    detail = "; ".join(f"{problem.field}: {problem.rule}" if problem.field else problem.rule for problem in problems)
    return _answer(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        detail=detail,
        code="invalid_request",
        way_out="Correct what is named; /docs describes every field",
        errors=problems,
    )


def _broken_rules(error: RequestValidationError) -> tuple[FieldProblem, ...]:
    """In the words of the job file's errors where a job was sent, else in pydantic's."""
    if isinstance(error.body, dict):
        try:
            JobSpec.model_validate(error.body)
        except ValidationError as refused:
            return tuple(FieldProblem(field=rule.field, rule=rule.rule) for rule in explain(refused))
    return tuple(
        FieldProblem(field=".".join(str(step) for step in details["loc"][1:]), rule=details["msg"])
        for details in error.errors()
    )


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # its length was not told beforehand
        limit = request.app.state.runtime.settings.max_request_bytes
        detail = f"the request has more bytes than the {limit} that this server reads"
        way_out = "Send less, or let the server read more: FIXNORM_MAX_REQUEST_BYTES"
        return _answer(status, detail=detail, code="request_too_large", way_out=way_out)
    if status is HTTPStatus.NOT_FOUND:  # only the router says so; what is missing otherwise has a class of its own
        detail = f"there is nothing at {request.url.path}"
        return _answer(status, detail=detail, code="not_found", way_out="Jobs are at /, the API is described at /docs")
    way_out = "Send JSON, as UTF-8" if status is HTTPStatus.BAD_REQUEST else ""  # FastAPI's only one: no text at all
    return _answer(status, detail=str(error.detail), code=status.phrase.lower().replace(" ", "_"), way_out=way_out)


async def _on_trouble(request: Request, error: Exception) -> JSONResponse:
    """Nothing was stored, so the same request may be sent again."""
    if (trouble := trouble_of(error)) is None:
        return await _on_bug(request, error)
    detail = describe(trouble, error, url=request.app.state.runtime.settings.url)
    log.warning("request.refused", path=request.url.path, reason=detail)
    if trouble is Trouble.FULL:
        way_out = "Free some space there, then ask again; the server goes on by itself"
        return _answer(HTTPStatus.INSUFFICIENT_STORAGE, detail=detail, code=trouble, way_out=way_out)
    return _answer(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail=detail,
        code=trouble,
        way_out="Ask again in a moment; the server goes on by itself once it has its database back",
        headers={"Retry-After": "5"},
    )


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("request.failed", path=request.url.path, exc_info=error)
    return _answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        detail=f"{type(error).__name__} while answering {request.method} {request.url.path}",
        code="internal_error",
        way_out="The server's log has the traceback",
    )


def _answer(
    status: HTTPStatus,
    *,
    detail: str,
    code: str,
    way_out: str = "",
    errors: tuple[FieldProblem, ...] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(title=status.phrase, status=status, detail=detail, code=code, way_out=way_out, errors=errors)
    return answer_problem(problem, headers=headers)
