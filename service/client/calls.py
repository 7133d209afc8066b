"""The verbs of the REST API, each written once; :class:`Client` and :class:`AsyncClient` say what they mean."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx

from fixnorm_core.reports import ClassEvaluation
from fixnorm_core.spec import JobSpec, Summary
from service.client.errors import ProblemError, UnexpectedAnswerError, WaitTimeoutError
from service.client.following import event_views, log_pieces
from service.client.steps import More, Pause, Steps, Stream, ask, call, open_stream, patiently
from service.nodes.schemas import NodeView
from service.plans.schemas import PlanView
from service.queue.schemas import QueueView
from service.schemas import (
    TERMINAL_STATES,
    BestView,
    DatasetView,
    EventView,
    Health,
    JobChange,
    JobPage,
    JobState,
    JobView,
    ModelView,
    RecipeView,
    TrialView,
)

_LARGEST_PAGE = 100
_JOBS = "/api/v1/jobs"


def submit(spec: JobSpec, *, idempotency_key: str | None) -> Steps[JobView]:
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return call(JobView, "POST", _JOBS, json=spec.model_dump(mode="json"), headers=headers)


def plan(spec: JobSpec) -> Steps[PlanView]:
    return call(PlanView, "POST", "/api/v1/plans", json=spec.model_dump(mode="json"))


def jobs(
    *,
    state: JobState | None,
    limit: int | None,
    search: str | None = None,
    user: str | None = None,
    mine: bool = False,
) -> Steps[list[JobView]]:
    found: list[JobView] = []
    query: dict[str, str | int] = {"state": state.value} if state else {}
    query |= {"search": search} if search else {}
    query |= {"user": user} if user is not None else {}
    query |= {"mine": "true"} if mine else {}
    while limit is None or len(found) < limit:
        query["limit"] = _LARGEST_PAGE if limit is None else min(_LARGEST_PAGE, limit - len(found))
        page = yield from call(JobPage, "GET", _JOBS, params=dict(query))
        found.extend(page.jobs)
        if page.next_cursor is None:
            break
        query["cursor"] = page.next_cursor
    return found


def job(job_id: str) -> Steps[JobView]:
    return call(JobView, "GET", _path(job_id))


def trials(job_id: str) -> Steps[list[TrialView]]:
    return call(list[TrialView], "GET", _path(job_id, "trials"))


def best(job_id: str) -> Steps[BestView]:
    return call(BestView, "GET", _path(job_id, "best"))


def classes(job_id: str) -> Steps[ClassEvaluation]:
    return call(ClassEvaluation, "GET", _path(job_id, "classes"))


def summary(job_id: str) -> Steps[Summary]:
    return call(Summary, "GET", _path(job_id, "summary"))


def verb(job_id: str, name: str) -> Steps[JobView]:
    return call(JobView, "POST", _path(job_id, name))


def extend(job_id: str, *, trials: int) -> Steps[JobView]:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return call(JobView, "POST", _path(job_id, "extend"), json={"trials": trials}, headers=headers)


def update(job_id: str, change: JobChange) -> Steps[JobView]:
    return call(JobView, "PATCH", _path(job_id), json=change.model_dump(mode="json", exclude_unset=True))


def wait(job_id: str, *, timeout: timedelta | None, poll: timedelta, clock: Callable[[], float]) -> Steps[JobView]:
    end = clock() + timeout.total_seconds() if timeout is not None else None
    patience = patiently()
    view: JobView | None = None
    while True:
        try:
            view = yield from job(job_id)
            patience.reached()
            pause = Pause(poll.total_seconds())
        except (httpx.TransportError, ProblemError, UnexpectedAnswerError) as error:
            pause = patience.again(error)
        if view is not None and view.state in TERMINAL_STATES:
            return view
        left = end - clock() if end is not None else None
        if view is not None and timeout is not None and left is not None and left <= 0:
            raise WaitTimeoutError(view, timeout)
        yield pause if left is None else Pause(max(0.0, min(pause.seconds, left)))


def events(job_id: str, *, after: int) -> Stream[EventView]:
    return event_views(_path(job_id, "events"), after=after)


def logs(job_id: str, trial: int, *, attempt: int | None, follow: bool) -> Stream[str]:
    path, all_trials = _path(job_id, f"trials/{trial}/logs"), _path(job_id, "trials")
    return log_pieces(path, trials=all_trials, number=trial, attempt=attempt, follow=follow)


def report(job_id: str, *, html: bool) -> Steps[str]:
    form = "html" if html else "markdown"
    answer = yield from ask("GET", _path(job_id, "report"), kind=f"text/{form}", params={"format": form})
    return answer.text


def code(job_id: str) -> Steps[str]:
    answer = yield from ask("GET", _path(job_id, "code"), kind="text/plain")
    return answer.text


def download_weights(job_id: str, *, to: Path) -> Steps[Path]:
    target = to / f"{job_id}.safetensors" if to.is_dir() else to
    yield from open_stream(_path(job_id, "weights"), "application/octet-stream")
    with _appearing_whole(target) as file:
        while (piece := (yield More())) is not None:
            file.write(piece)
    return target


health = partial(call, Health, "GET", "/healthz")
queue = partial(call, QueueView, "GET", "/api/v1/queue")
nodes = partial(call, list[NodeView], "GET", "/api/v1/nodes")
models = partial(call, list[ModelView], "GET", "/api/v1/models")
datasets = partial(call, list[DatasetView], "GET", "/api/v1/datasets")
recipes = partial(call, list[RecipeView], "GET", "/api/v1/recipes")


def release(node: str) -> Steps[list[NodeView]]:
    return call(list[NodeView], "POST", f"/api/v1/nodes/{quote(node, safe='')}/release")


def _path(job_id: str, rest: str = "") -> str:
    """Keeps a job id one step of the path, whatever was typed."""
    return f"{_JOBS}/{quote(job_id, safe='')}" + (f"/{rest}" if rest else "")


@contextmanager
def _appearing_whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete."""
    partial_file = target.with_name(f"{target.name}.partial")
    try:
        with partial_file.open("wb") as file:
            yield file
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
