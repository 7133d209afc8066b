"""The REST API as typed Python calls."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from fixnorm_core.spec import JobSpec, Summary
from service.client.errors import BadServerAddressError, ProblemError, ServerUnreachableError, UnexpectedAnswerError
from service.client.following import log_pieces
from service.queue.schemas import QueueView
from service.schemas import (
    TERMINAL_STATES,
    BestView,
    DatasetView,
    Health,
    JobChange,
    JobPage,
    JobState,
    JobView,
    ModelView,
    Problem,
    RecipeView,
    TrialState,
    TrialView,
)

__all__ = ["Client"]

T = TypeVar("T")

_LARGEST_PAGE = 100


class Client:
    """A connection to one server; a context manager. Not to be shared between threads.

    Every call may raise :class:`ServerUnreachableError`, :class:`ProblemError` (the server's refusal) or
    :class:`UnexpectedAnswerError`. A request whose connection breaks is sent once more: reading changes nothing,
    pausing, resuming, stopping, cancelling and retrying change nothing the second time, and a submission and an
    extension carry an idempotency key.
    """

    def __init__(
        self,
        server: str,
        *,
        timeout: timedelta = timedelta(seconds=30),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects lazily, at the first call.

        Args:
            server: The server's address, for example ``http://127.0.0.1:8780``.
            timeout: The longest wait for a connection, and for each piece of an answer.
            sleep: Waits for so many seconds; :meth:`wait` uses it.

        Raises:
            BadServerAddressError: The address is no http or https URL.
        """
        self.server = server.rstrip("/")
        host = _host_of(self.server)
        self._sleep = sleep
        # A proxy of the environment cannot know this machine's own servers.
        self._http = httpx.Client(
            base_url=self.server, timeout=timeout.total_seconds(), trust_env=not _is_loopback(host)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def submit(self, spec: JobSpec, *, idempotency_key: str | None = None) -> JobView:
        """Starts a job, or gives back the one that was submitted with the same key.

        Args:
            spec: The job.
            idempotency_key: A name of this submission, so that sending it again starts no second job; a random one
                when None.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._call(JobView, "POST", "/api/v1/jobs", json=spec.model_dump(mode="json"), headers=headers)

    def jobs(self, *, state: JobState | None = None, limit: int | None = None) -> list[JobView]:
        """Jobs, newest first; at most ``limit``, all when None."""
        found: list[JobView] = []
        query: dict[str, str | int] = {"state": state.value} if state else {}
        while limit is None or len(found) < limit:
            query["limit"] = _LARGEST_PAGE if limit is None else min(_LARGEST_PAGE, limit - len(found))
            page = self._call(JobPage, "GET", "/api/v1/jobs", params=query)
            found.extend(page.jobs)
            if page.next_cursor is None:
                break
            query["cursor"] = page.next_cursor
        return found

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._call(JobView, "GET", f"/api/v1/jobs/{_segment(job_id)}")

    def trials(self, job_id: str) -> list[TrialView]:
        """A job's trials by number."""
        return self._call(list[TrialView], "GET", f"/api/v1/jobs/{_segment(job_id)}/trials")

    def best(self, job_id: str) -> BestView:
        """A job's recommended point so far; a ``no_result_yet`` problem before the first finished trial."""
        return self._call(BestView, "GET", f"/api/v1/jobs/{_segment(job_id)}/best")

    def summary(self, job_id: str) -> Summary:
        """What a finished job has learned, for the ``search.warm_start`` of another, on any server."""
        return self._call(Summary, "GET", f"/api/v1/jobs/{_segment(job_id)}/summary")

    def pause(self, job_id: str) -> JobView:
        """Lets a job's running trials finish and starts nothing more of it; a paused one stays as it is."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> JobView:
        """Goes on with a paused job; one that is not paused goes on anyway."""
        return self._ask(job_id, "resume")

    def stop(self, job_id: str) -> JobView:
        """Lets a job's running trials finish, then ends it with the best so far; :meth:`wait` waits for that.

        One that has ended stays as it is. Without a complete trial there is no result, and the job ends as cancelled.
        """
        return self._ask(job_id, "stop")

    def cancel(self, job_id: str) -> JobView:
        """Ends a job now; one that has ended stays as it is."""
        return self._ask(job_id, "cancel")

    def extend(self, job_id: str, trials: int) -> JobView:
        """Adds trials to a job's budget; one that has ended goes on, from the trials that it has."""
        path, key = f"/api/v1/jobs/{_segment(job_id)}/extend", uuid.uuid4().hex
        return self._call(JobView, "POST", path, json={"trials": trials}, headers={"Idempotency-Key": key})

    def update(self, job_id: str, change: JobChange) -> JobView:
        """Changes a job's share or parallel trials, such as ``JobChange(share=ShareChange(weight=2))``.

        What the change leaves out stays as it is. A job that has ended is refused.
        """
        path = f"/api/v1/jobs/{_segment(job_id)}"
        return self._call(JobView, "PATCH", path, json=change.model_dump(mode="json", exclude_unset=True))

    def retry(self, job_id: str) -> JobView:
        """Has what failed of a job done again, as new trials at the same points; without anything, it stays as it is.

        One that has ended without a failure is refused.
        """
        return self._ask(job_id, "retry")

    def logs(self, job_id: str, trial: int, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """What a trial has logged, in pieces of text.

        Args:
            job_id: The job.
            trial: The trial's number.
            attempt: Which attempt at it, counted from 1; the last one when None.
            follow: Go on until the attempt has ended, and without ``attempt`` until the trial has: a line of its own
                begins each next attempt. Over a server's restart the log goes on where it broke off.
        """
        path = f"/api/v1/jobs/{_segment(job_id)}/trials/{trial}/logs"

        def open_stream(which: dict[str, int]) -> httpx.Response:
            asked = self._http.build_request("GET", path, params=which | {"follow": int(follow)})
            if follow:  # an epoch may be long and silent
                asked.extensions["timeout"] |= {"read": None}
            answer = self._http.send(asked, stream=True)
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            return answer

        def next_attempt(last: int) -> int | None:
            while attempt is None:
                now = next((one for one in self.trials(job_id) if one.number == trial), None)
                if now is not None and now.attempts > last:
                    return last + 1
                if now is None or now.state is not TrialState.RUNNING:
                    return None
                self._sleep(1.0)
            return None

        try:
            yield from log_pieces(
                open_stream, attempt=attempt, follow=follow, next_attempt=next_attempt, sleep=self._sleep
            )
        except httpx.TransportError as error:
            raise ServerUnreachableError(self.server, _cause(error)) from error

    def health(self) -> Health:
        """Whether the server is there, and whether it is the one that runs jobs."""
        return self._call(Health, "GET", "/healthz")

    def report(self, job_id: str, *, html: bool = False) -> str:
        """A finished job's report: Markdown, or its charts as one HTML document that needs no network."""
        path, form = f"/api/v1/jobs/{_segment(job_id)}/report", "html" if html else "markdown"
        answer = self._send("GET", path, params={"format": form})
        if not answer.is_success:
            raise self._refusal(answer)
        return answer.text

    def queue(self) -> QueueView:
        """Who holds what, and who waits for room, in which order and why."""
        return self._call(QueueView, "GET", "/api/v1/queue")

    def models(self) -> list[ModelView]:
        """The models a job can name."""
        return self._call(list[ModelView], "GET", "/api/v1/models")

    def datasets(self) -> list[DatasetView]:
        """The data sets a job can name."""
        return self._call(list[DatasetView], "GET", "/api/v1/datasets")

    def recipes(self) -> list[RecipeView]:
        """The named jobs that the server ships; ``submit(recipe.job)`` runs one."""
        return self._call(list[RecipeView], "GET", "/api/v1/recipes")

    def wait(self, job_id: str, *, poll: timedelta = timedelta(seconds=0.5)) -> JobView:
        """Blocks until a job has ended, however it ended."""
        while (job := self.job(job_id)).state not in TERMINAL_STATES:
            self._sleep(poll.total_seconds())
        return job

    def download_weights(self, job_id: str, *, to: Path) -> Path:
        """Fetches the best point's weights (safetensors); the file appears whole or not at all.

        Args:
            job_id: The job.
            to: The file to write, or a folder to put ``JOB_ID.safetensors`` in.

        Returns:
            The file.
        """
        target = to / f"{job_id}.safetensors" if to.is_dir() else to
        partial = target.with_name(f"{target.name}.partial")
        try:
            with self._http.stream("GET", f"/api/v1/jobs/{_segment(job_id)}/weights") as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._refusal(answer)
                with partial.open("wb") as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
            partial.replace(target)
        except httpx.TransportError as error:
            raise ServerUnreachableError(self.server, _cause(error)) from error
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _ask(self, job_id: str, verb: str) -> JobView:
        return self._call(JobView, "POST", f"/api/v1/jobs/{_segment(job_id)}/{verb}")

    def _call(self, answer_type: type[T], method: str, path: str, **request: Any) -> T:
        answer = self._send(method, path, **request)
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            # Strict in, lenient out: a newer server's fields are ignored, in the echoed spec as well.
            return TypeAdapter(answer_type).validate_json(answer.content, extra="ignore")
        except ValidationError as error:
            raise UnexpectedAnswerError(str(answer.url), _kind_of(answer)) from error

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            try:
                return self._http.request(method, path, **request)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                return self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServerUnreachableError(self.server, _cause(error)) from error

    def _refusal(self, answer: httpx.Response) -> ProblemError | UnexpectedAnswerError:
        try:
            return ProblemError(Problem.model_validate_json(answer.content))
        except ValidationError:
            return UnexpectedAnswerError(str(answer.url), f"status {answer.status_code} and {_kind_of(answer)}")


def _host_of(server: str) -> str:
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL:
        raise BadServerAddressError(server) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadServerAddressError(server)
    return url.host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _segment(text: str) -> str:
    """Keeps a job id one step of the path, whatever was typed."""
    return quote(text, safe="")


def _kind_of(answer: httpx.Response) -> str:
    return str(answer.headers.get("content-type", "no content type"))


def _cause(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
