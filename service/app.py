"""The ASGI application: our API, the dashboard beside it, errors as problems."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from fixnorm_core.disk import free_bytes, no_space_at
from service import catalog, problems
from service.access.gate import guarded
from service.access.headers import SafeHeaders
from service.access.origins import SameOrigin
from service.access.sizes import SizeLimit
from service.answers import PROBLEM
from service.dashboard import WithDashboard
from service.events import endpoints as events
from service.jobs import endpoints as jobs
from service.jobs import logs
from service.metrics import endpoints as metrics
from service.nodes import endpoints as nodes
from service.pages import api, login
from service.pages import endpoints as pages
from service.pages import logs as log_pages
from service.pages.problems import ProblemPages
from service.plans import endpoints as plans
from service.problems import NotReady
from service.queue import endpoints as queue
from service.runtime import Running, Runtime
from service.schemas import Health

__all__ = ["create_app", "describe_api"]

_ABOUT = """
Few-trial hyperparameter tuning for image classifiers. Submit a job, watch its trials, take the best
(lr, fc_norm) and the trained weights. Errors are RFC 9457 problem details with a stable `code` and a way out.

A server that has tokens answers only those who send one: `Authorization: Bearer TOKEN`.
"""


def create_app(runtime: Runtime, *, start: Callable[[], None], close: Callable[[], None]) -> ASGIApp:
    """Builds the application.

    Args:
        runtime: The parts its handlers use.
        start: Called once before the first request is answered.
        close: Called once after the last.
    """
    app = _api(_lifespan(start, close))
    app.state.runtime = runtime
    problems.install(app)
    app.include_router(pages.router)
    app.include_router(log_pages.router)
    app.include_router(api.router)
    app.include_router(login.router)
    access = runtime.access
    inner = guarded(WithDashboard(app, runtime.storage), access)
    limited = SizeLimit(inner, limit=runtime.settings.max_request_bytes)
    return SafeHeaders(ProblemPages(SameOrigin(limited, open_to_all=not access.required)))


def describe_api() -> dict[str, Any]:
    """The OpenAPI document, without a server."""
    return _api().openapi()


def _api(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> FastAPI:
    app = FastAPI(
        title="fixnorm-tune",
        version=version("fixnorm-tune"),
        description=_ABOUT,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.router.routes.extend(_routes())
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """Those of the API. They know nothing of a server, and making them takes longer than the rest of its start."""
    bearer = HTTPBearer(auto_error=False, description="Only where the server has tokens.")  # says it; the gate does it
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(bearer)], responses=_REFUSALS)
    routes.include_router(jobs.router)
    routes.include_router(logs.router)
    routes.include_router(events.router)
    routes.include_router(plans.router)
    routes.include_router(queue.router)
    routes.include_router(nodes.router)
    routes.include_router(catalog.router)
    root = APIRouter()
    root.include_router(routes)
    root.add_api_route("/healthz", _health, methods=["GET"], tags=["health"], responses=_OF_THE_GATE)
    root.add_api_route("/readyz", _ready, methods=["GET"], tags=["health"], responses=_REFUSALS)
    root.include_router(metrics.router, responses=_REFUSALS)
    return root.routes


_OF_THE_GATE: dict[int | str, dict[str, Any]] = {
    401: PROBLEM
    | {"description": "No token was sent where one is needed, or one that is not known here or has ended."},
    403: PROBLEM | {"description": "The token's scope or name does not allow it, or a page of another site asks."},
    429: PROBLEM | {"description": "Too many unknown tokens came from this address; `Retry-After` says when to go on."},
}
_REFUSALS: dict[int | str, dict[str, Any]] = _OF_THE_GATE | {
    400: PROBLEM | {"description": "What was sent is no text."},
    422: PROBLEM | {"description": "What was sent breaks a rule: `errors` names each field and its rule."},
    503: PROBLEM
    | {"description": "The database does not answer; nothing was changed. `Retry-After` says when to ask again."},
    507: PROBLEM | {"description": "There is no room on the server's disk; nothing was changed."},
}


async def _health(running: Running) -> Health:
    """Answers whenever the process can answer at all: even while all threads for requests wait for an object store."""
    return _state(running)


async def _ready(running: Running) -> Health:
    """Answers 200 when jobs can be taken in and, on the server that runs them, carried on; else 503 and why not."""
    return await asyncio.get_running_loop().run_in_executor(_READY_THREADS, _look, running)


def _state(running: Runtime) -> Health:
    return Health(status="ok", version=version("fixnorm-tune"), dispatching=running.leads())


def _look(running: Runtime) -> Health:
    if (trouble := running.trouble()) is not None:
        raise NotReady(trouble, "The server goes on by itself once that is mended")
    folder = running.settings.state_dir
    if free_bytes(folder) < _RESERVE_BYTES:
        raise NotReady(no_space_at(folder), "Free some space there")
    with running.database.read() as session:
        session.execute(select(1))
    return _state(running)


_RESERVE_BYTES = 2**20
_READY_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ready")


def _lifespan(
    start: Callable[[], None], close: Callable[[], None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(start)
        try:
            yield
        finally:
            await run_in_threadpool(close)

    return lifespan
