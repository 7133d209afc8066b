"""The REST API as typed Python calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from service.client.handles import Job
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

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to one server; a context manager. Not to be shared between threads.

    Every call may raise :class:`ServerUnreachableError`, :class:`ProblemError` (the server's refusal) or
    :class:`UnexpectedAnswerError`. A request whose connection breaks is sent once more: reading changes nothing,
    pausing, resuming, stopping, cancelling and retrying change nothing the second time, and a submission and an
    extension carry an idempotency key. Waiting, events and followed logs outlast a server that is away for up to two
    minutes.

    :class:`AsyncClient` has the same calls.

    Attributes:
        server: The server's address.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        timeout: timedelta = timedelta(seconds=30),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects lazily, at the first call.

        Args:
            server: The server's address; that of ``FIXNORM_SERVER`` when None, or else ``http://127.0.0.1:8780``.
            token: What a server that has tokens asks for, sent as a bearer token; that of ``FIXNORM_TOKEN`` when None.
            timeout: The longest wait for a connection, and for each piece of an answer.
            sleep: Waits for so many seconds.
            clock: Seconds on a clock that never goes back; :meth:`wait` uses it.

        Raises:
            BadServerAddressError: The address is no http or https URL.
            BadTokenError: The token has signs that none has, such as a line's end.
        """
        self._connection = Connection(server, token=token, timeout=timeout)
        self.server = self._connection.server
        self._sleep, self._clock = sleep, clock
        self._http = httpx.Client(**self._connection.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def submit(self, spec: JobSpec, *, idempotency_key: str | None = None) -> Job:
        """Starts a job, or gives back the one that was submitted with the same key.

        Args:
            spec: The job.
            idempotency_key: A name of this submission, so that sending it again starts no second job; a random one
                when None.
        """
        return Job(self, self._run(calls.submit(spec, idempotency_key=idempotency_key)))

    def attach(self, job_id: str) -> Job:
        """A job that was submitted elsewhere or before, as :meth:`submit` gives it."""
        return Job(self, self._run(calls.job(job_id)))

    def plan(self, spec: JobSpec) -> PlanView:
        """What would become of a job if it were submitted now; refused as submitting it would be. Starts nothing."""
        return self._run(calls.plan(spec))

    def jobs(
        self,
        *,
        state: JobState | None = None,
        limit: int | None = None,
        search: str | None = None,
        user: str | None = None,
        mine: bool = False,
    ) -> list[JobView]:
        """Jobs, newest first; at most ``limit``, all when None.

        Those with ``search`` in their name or id; those of a ``user``, or of the token that is sent (``mine``).
        """
        return self._run(calls.jobs(state=state, limit=limit, search=search, user=user, mine=mine))

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._run(calls.job(job_id))

    def trials(self, job_id: str) -> list[TrialView]:
        """A job's trials by number."""
        return self._run(calls.trials(job_id))

    def best(self, job_id: str) -> BestView:
        """A job's recommended point so far; :class:`NoResultYetError` before the first finished trial."""
        return self._run(calls.best(job_id))

    def classes(self, job_id: str) -> ClassEvaluation:
        """How each class fared on the test split; :class:`NoResultYetError` before the job has ended."""
        return self._run(calls.classes(job_id))

    def summary(self, job_id: str) -> Summary:
        """What a finished job has learned, for the ``search.warm_start`` of another, on any server."""
        return self._run(calls.summary(job_id))

    def pause(self, job_id: str) -> JobView:
        """Lets a job's running trials finish and starts nothing more of it; a paused one stays as it is."""
        return self._run(calls.verb(job_id, "pause"))

    def resume(self, job_id: str) -> JobView:
        """Goes on with a paused job; one that is not paused goes on anyway."""
        return self._run(calls.verb(job_id, "resume"))

    def stop(self, job_id: str) -> JobView:
        """Lets a job's running trials finish, then ends it with the best so far; :meth:`wait` waits for that.

        One that has ended stays as it is. Without a complete trial there is no result, and the job ends as cancelled.
        """
        return self._run(calls.verb(job_id, "stop"))

    def cancel(self, job_id: str) -> JobView:
        """Ends a job now; one that has ended stays as it is."""
        return self._run(calls.verb(job_id, "cancel"))

    def extend(self, job_id: str, trials: int) -> JobView:
        """Adds trials to a job's budget; one that has ended goes on, from the trials that it has."""
        return self._run(calls.extend(job_id, trials=trials))

    def update(self, job_id: str, change: JobChange) -> JobView:
        """Changes a job's share or parallel trials, such as ``JobChange(share=ShareChange(weight=2))``.

        What the change leaves out stays as it is. A job that has ended is refused.
        """
        return self._run(calls.update(job_id, change))

    def retry(self, job_id: str) -> JobView:
        """Has what failed of a job done again, as new trials at the same points; without anything, it stays as it is.

        One that has ended without a failure is refused.
        """
        return self._run(calls.verb(job_id, "retry"))

    def wait(
        self, job_id: str, *, timeout: timedelta | None = None, poll: timedelta = timedelta(seconds=0.5)
    ) -> JobView:
        """Waits until a job has ended, however it ended.

        Args:
            job_id: The job.
            timeout: The longest wait; any when None.
            poll: Between two looks.

        Raises:
            WaitTimeoutError: It has not ended; it goes on.
        """
        return self._run(calls.wait(job_id, timeout=timeout, poll=poll, clock=self._clock))

    def events(self, job_id: str, *, after: int = 0) -> Iterator[EventView]:
        """What happens to a job, as it happens, until the job has ended: in order, each event once.

        Over a broken connection and a restart of the server it goes on where it broke off.

        Args:
            job_id: The job.
            after: The number of the last event that is known; those after it come.
        """
        return self._iterate(calls.events(job_id, after=after))

    def logs(self, job_id: str, trial: int, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """What a trial has logged, in pieces of text.

        Args:
            job_id: The job.
            trial: The trial's number.
            attempt: Which attempt at it, counted from 1; the last one when None.
            follow: Go on until the attempt has ended, and without ``attempt`` until the trial has: a line of its own
                begins each next attempt. Over a server's restart the log goes on where it broke off.
        """
        return self._iterate(calls.logs(job_id, trial, attempt=attempt, follow=follow))

    def report(self, job_id: str, *, html: bool = False) -> str:
        """What a job tried and found: a finished one in Markdown, any one as an HTML document that needs no network."""
        return self._run(calls.report(job_id, html=html))

    def code(self, job_id: str) -> str:
        """The Python file that came with a job.

        Raises:
            NotFoundError: If it came with none.
        """
        return self._run(calls.code(job_id))

    def download_weights(self, job_id: str, *, to: Path) -> Path:
        """Fetches the best point's weights (safetensors); the file appears whole or not at all.

        Args:
            job_id: The job.
            to: The file to write, or a folder to put ``JOB_ID.safetensors`` in.

        Returns:
            The file.
        """
        return self._run(calls.download_weights(job_id, to=to))

    def health(self) -> Health:
        """Whether the server is there, and whether it is the one that runs jobs."""
        return self._run(calls.health())

    def queue(self) -> QueueView:
        """Who holds what, and who waits for room, in which order and why."""
        return self._run(calls.queue())

    def nodes(self) -> list[NodeView]:
        """The nodes that trials run on, and which of them are out of use."""
        return self._run(calls.nodes())

    def release(self, node: str) -> list[NodeView]:
        """Takes a node that is out of use into use again; returns all nodes. One that is in use stays so."""
        return self._run(calls.release(node))

    def models(self) -> list[ModelView]:
        """The models a job can name."""
        return self._run(calls.models())

    def datasets(self) -> list[DatasetView]:
        """The data sets a job can name."""
        return self._run(calls.datasets())

    def recipes(self) -> list[RecipeView]:
        """The named jobs that the server ships; ``submit(recipe.job)`` runs one."""
        return self._run(calls.recipes())

    def _run(self, steps: Steps[T]) -> T:
        course = Course(steps)
        try:
            with _Line(self._http, self._connection) as line:
                self._carry_out(course, line)
        finally:
            course.close()
        return course.result

    def _iterate(self, steps: Stream[T]) -> Iterator[T]:
        course = Course(steps)
        try:
            with _Line(self._http, self._connection) as line:
                while isinstance(given := self._carry_out(course, line), Give):
                    yield given.item
                    course.came()
        finally:
            course.close()

    def _carry_out(self, course: Course[Any], line: _Line) -> Give[Any] | None:
        """The steps up to the next thing to hand out, or to the end."""
        try:
            while (step := course.step) is not None and not isinstance(step, Give):
                try:
                    match step:
                        case Pause(seconds):
                            came: Any = None
                            self._sleep(seconds)
                        case Ask(method, path, options):
                            came = self._http.request(method, path, **options)
                        case Open():
                            came = line.open(step)
                        case More():
                            came = line.more()
                except httpx.TransportError as error:
                    course.broke(error)
                else:
                    course.came(came)
        except httpx.TransportError as error:
            raise unreachable(self._connection, error) from error
        return step


class _Line:
    """The one open answer of a call."""

    def __init__(self, http: httpx.Client, connection: Connection) -> None:
        self._http, self._connection = http, connection
        self._answer: httpx.Response | None = None
        self._pieces: Iterator[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def open(self, step: Open) -> httpx.Response:
        self._close()
        asked = self._http.build_request(
            "GET", step.path, timeout=self._connection.timeout(step.silence), **step.options
        )
        self._answer = answer = self._http.send(asked, stream=True)
        if not answer.is_success:
            answer.read()
        self._pieces = EventSource(answer).iter_sse() if step.events else answer.iter_bytes()
        return answer

    def more(self) -> Any:
        assert self._pieces is not None
        return next(self._pieces, None)

    def _close(self) -> None:
        if self._answer is not None:
            self._answer.close()
