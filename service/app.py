"""The ASGI application: our API, the dashboard beside it, errors as problems."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from fixnorm_core.disk import free_bytes, no_space_at
from service import catalog, problems
from service.dashboard import WithDashboard
from service.events import endpoints as events
from service.jobs import endpoints as jobs
from service.jobs import logs
from service.loopback import LoopbackOnly
from service.metrics import endpoints as metrics
from service.pages import endpoints as pages
from service.problems import NotReady
from service.queue import endpoints as queue
from service.runtime import Running, Runtime
from service.schemas import Health, Problem

__all__ = ["create_app"]

_ABOUT = """
Few-trial hyperparameter tuning for image classifiers. Submit a job, watch its trials, take the best
(lr, fc_norm) and the trained weights. Errors are RFC 9457 problem details with a stable `code` and a way out.
"""


def create_app(runtime: Runtime, *, start: Callable[[], None], close: Callable[[], None]) -> ASGIApp:
    """Builds the application.

    Args:
        runtime: The parts its handlers use.
        start: Called once before the first request is answered.
        close: Called once after the last.
    """
    app = FastAPI(
        title="fixnorm-tune", version=version("fixnorm-tune"), description=_ABOUT, lifespan=_lifespan(start, close)
    )
    app.state.runtime = runtime
    problems.install(app)
    api = APIRouter(prefix="/api/v1")
    api.include_router(jobs.router)
    api.include_router(logs.router)
    api.include_router(events.router)
    api.include_router(queue.router)
    api.include_router(catalog.router)
    app.include_router(api)
    app.add_api_route("/healthz", _health, methods=["GET"], tags=["health"])
    app.add_api_route("/readyz", _ready, methods=["GET"], tags=["health"], responses={503: {"model": Problem}})
    app.include_router(metrics.router)
    app.include_router(pages.router)
    return LoopbackOnly(WithDashboard(app, runtime.storage))


def _health(running: Running) -> Health:
    """Answers whenever the process can answer at all."""
    return Health(status="ok", version=version("fixnorm-tune"), dispatching=running.leads())


def _ready(running: Running) -> Health:
    """Answers 200 when jobs can be taken in and, on the server that runs them, carried on; else 503 and why not."""
    if (trouble := running.trouble()) is not None:
        raise NotReady(trouble, "The server goes on by itself once that is mended")
    folder = running.settings.state_dir
    if free_bytes(folder) < _RESERVE_BYTES:
        raise NotReady(no_space_at(folder), "Free some space there")
    with running.database.read() as session:
        session.execute(select(1))
    return _health(running)


_RESERVE_BYTES = 2**20


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
