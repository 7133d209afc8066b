"""The REST API as typed Python calls for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import EventSource

from fixnorm_core.reports import ClassEvaluation
from fixnorm_core.spec import JobSpec, Summary
from service.client import calls
from service.client.address import Connection
from service.client.handles import AsyncJob
from service.client.schemes import unreachable
from service.client.steps import Ask, Course, Give, More, Open, Pause, Steps, Stream
from service.nodes.schemas import NodeView
from service.plans.schemas import PlanView
from service.queue.schemas import QueueView
from service.schemas import (
    BestView,
    DatasetView,
    EventView,
    Health,
    JobChange,
    JobState,
    JobView,
    ModelView,
    RecipeView,
    TrialView,
)

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """:class:`Client` for asyncio: the same calls with the same arguments and errors, each to be awaited.

    An asynchronous context manager. :meth:`events` and :meth:`logs` are iterated over with ``async for``.

    Attributes:
        server: The server's address.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        timeout: timedelta = timedelta(seconds=30),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As :class:`Client`; ``sleep`` is awaited."""
        self._connection = Connection(server, token=token, timeout=timeout)
        self.server = self._connection.server
        self._sleep, self._clock = sleep, clock
        self._http = httpx.AsyncClient(**self._connection.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def submit(self, spec: JobSpec, *, idempotency_key: str | None = None) -> AsyncJob:
        """As :meth:`Client.submit`."""
        return AsyncJob(self, await self._run(calls.submit(spec, idempotency_key=idempotency_key)))

    async def attach(self, job_id: str) -> AsyncJob:
        """As :meth:`Client.attach`."""
        return AsyncJob(self, await self._run(calls.job(job_id)))

    async def plan(self, spec: JobSpec) -> PlanView:
        """As :meth:`Client.plan`."""
        return await self._run(calls.plan(spec))

    async def jobs(
        self,
        *,
        state: JobState | None = None,
        limit: int | None = None,
        search: str | None = None,
        user: str | None = None,
        mine: bool = False,
    ) -> list[JobView]:
        """As :meth:`Client.jobs`."""
        return await self._run(calls.jobs(state=state, limit=limit, search=search, user=user, mine=mine))

    async def job(self, job_id: str) -> JobView:
        """As :meth:`Client.job`."""
        return await self._run(calls.job(job_id))

    async def trials(self, job_id: str) -> list[TrialView]:
        """As :meth:`Client.trials`."""
        return await self._run(calls.trials(job_id))

    async def best(self, job_id: str) -> BestView:
        """As :meth:`Client.best`."""
        return await self._run(calls.best(job_id))

    async def classes(self, job_id: str) -> ClassEvaluation:
        """As :meth:`Client.classes`."""
        return await self._run(calls.classes(job_id))

    async def summary(self, job_id: str) -> Summary:
        """As :meth:`Client.summary`."""
        return await self._run(calls.summary(job_id))

    async def pause(self, job_id: str) -> JobView:
        """As :meth:`Client.pause`."""
        return await self._run(calls.verb(job_id, "pause"))

    async def resume(self, job_id: str) -> JobView:
        """As :meth:`Client.resume`."""
        return await self._run(calls.verb(job_id, "resume"))

    async def stop(self, job_id: str) -> JobView:
        """As :meth:`Client.stop`."""
        return await self._run(calls.verb(job_id, "stop"))

    async def cancel(self, job_id: str) -> JobView:
        """As :meth:`Client.cancel`."""
        return await self._run(calls.verb(job_id, "cancel"))

    async def extend(self, job_id: str, trials: int) -> JobView:
        """As :meth:`Client.extend`."""
        return await self._run(calls.extend(job_id, trials=trials))

    async def update(self, job_id: str, change: JobChange) -> JobView:
        """As :meth:`Client.update`."""
        return await self._run(calls.update(job_id, change))

    async def retry(self, job_id: str) -> JobView:
        """As :meth:`Client.retry`."""
        return await self._run(calls.verb(job_id, "retry"))

    async def wait(
        self, job_id: str, *, timeout: timedelta | None = None, poll: timedelta = timedelta(seconds=0.5)
    ) -> JobView:
        """As :meth:`Client.wait`."""
        return await self._run(calls.wait(job_id, timeout=timeout, poll=poll, clock=self._clock))

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[EventView]:
        """As :meth:`Client.events`."""
        return self._iterate(calls.events(job_id, after=after))

    def logs(self, job_id: str, trial: int, *, attempt: int | None = None, follow: bool = False) -> AsyncIterator[str]:
        """As :meth:`Client.logs`."""
        return self._iterate(calls.logs(job_id, trial, attempt=attempt, follow=follow))

    async def report(self, job_id: str, *, html: bool = False) -> str:
        """As :meth:`Client.report`."""
        return await self._run(calls.report(job_id, html=html))

    async def code(self, job_id: str) -> str:
        """As :meth:`Client.code`."""
        return await self._run(calls.code(job_id))

    async def download_weights(self, job_id: str, *, to: Path) -> Path:
        """As :meth:`Client.download_weights`."""
        return await self._run(calls.download_weights(job_id, to=to))

    async def health(self) -> Health:
        """As :meth:`Client.health`."""
        return await self._run(calls.health())

    async def queue(self) -> QueueView:
        """As :meth:`Client.queue`."""
        return await self._run(calls.queue())

    async def nodes(self) -> list[NodeView]:
        """As :meth:`Client.nodes`."""
        return await self._run(calls.nodes())

    async def release(self, node: str) -> list[NodeView]:
        """As :meth:`Client.release`."""
        return await self._run(calls.release(node))

    async def models(self) -> list[ModelView]:
        """As :meth:`Client.models`."""
        return await self._run(calls.models())

    async def datasets(self) -> list[DatasetView]:
        """As :meth:`Client.datasets`."""
        return await self._run(calls.datasets())

    async def recipes(self) -> list[RecipeView]:
        """As :meth:`Client.recipes`."""
        return await self._run(calls.recipes())

    async def _run(self, steps: Steps[T]) -> T:
        course = Course(steps)
        try:
            async with _Line(self._http, self._connection) as line:
                await self._carry_out(course, line)
        finally:
            course.close()
        return course.result

    async def _iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        course = Course(steps)
        try:
            async with _Line(self._http, self._connection) as line:
                while isinstance(given := await self._carry_out(course, line), Give):
                    yield given.item
                    course.came()
        finally:
            course.close()

    async def _carry_out(self, course: Course[Any], line: _Line) -> Give[Any] | None:
        """The steps up to the next thing to hand out, or to the end."""
        try:
            while (step := course.step) is not None and not isinstance(step, Give):
                try:
                    match step:
                        case Pause(seconds):
                            came: Any = None
                            await self._sleep(seconds)
                        case Ask(method, path, options):
                            came = await self._http.request(method, path, **options)
                        case Open():
                            came = await line.open(step)
                        case More():
                            came = await line.more()
                except httpx.TransportError as error:
                    course.broke(error)
                else:
                    course.came(came)
        except httpx.TransportError as error:
            raise await asyncio.to_thread(unreachable, self._connection, error) from error
        return step


class _Line:
    """The one open answer of a call."""

    def __init__(self, http: httpx.AsyncClient, connection: Connection) -> None:
        self._http, self._connection = http, connection
        self._answer: httpx.Response | None = None
        self._pieces: AsyncIterator[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def open(self, step: Open) -> httpx.Response:
        await self._close()
        asked = self._http.build_request(
            "GET", step.path, timeout=self._connection.timeout(step.silence), **step.options
        )
        self._answer = answer = await self._http.send(asked, stream=True)
        if not answer.is_success:
            await answer.aread()
        self._pieces = EventSource(answer).aiter_sse() if step.events else answer.aiter_bytes()
        return answer

    async def more(self) -> Any:
        assert self._pieces is not None
        return await anext(self._pieces, None)

    async def _close(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()
