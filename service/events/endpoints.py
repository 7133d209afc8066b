"""``/api/v1/jobs/{id}/events``: server-sent events, from the stored ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from service.answers import PROBLEM
from service.events.records import events_after
from service.jobs import repository
from service.problems import NotFound
from service.runtime import Running, Runtime
from service.schemas import TERMINAL_STATES, EventView

__all__ = ["router"]

router = APIRouter(prefix="/jobs", tags=["jobs"])

_LOOK_EVERY_SECONDS = 0.2
_EVENTS_AT_ONCE = 500
_RETRY_MILLISECONDS = 1000
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One `EventView` as `data` for each event, its number as `id`, its kind as `event`.",
        "content": {"text/event-stream": {}},
    },
    204: {"description": "The job has ended and has no event after that one; do not ask again."},
    404: PROBLEM,
}


_LAST = 2**31 - 1  # what the column holds


@router.get("/{job_id}/events", response_class=StreamingResponse, responses=_RESPONSES)
def stream_events(
    job_id: str,
    running: Running,
    last_event_id: Annotated[int | None, Header(ge=0, le=_LAST)] = None,
    after: Annotated[int, Query(ge=0, le=_LAST)] = 0,
) -> Response:
    """A job's events from the first, or after `Last-Event-ID` (or `after`), until it has ended.

    Events are read from the database, where each was stored with the change that it tells of: after a break, or a
    restart of the server, `Last-Event-ID` goes on with nothing lost and nothing twice. Comments keep a silent stream
    alive. A reader that finds the stream closed connects again; the answer is 204 when the job has ended and
    everything was read, at which a browser's `EventSource` stops by itself. The stream of a job that was extended
    after its end goes on past its first `job.ended`.
    """
    after = after if last_event_id is None else last_event_id
    events, ended = _look(running, job_id, after)
    if ended and not events:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_stream(running, job_id, after), headers=headers)


async def _stream(running: Runtime, job_id: str, after: int) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=_RETRY_MILLISECONDS)
    silent = 0.0
    while not running.stopping.is_set():
        events, ended = await run_in_threadpool(_look, running, job_id, after)
        for event in events:
            data = event.model_dump_json(exclude_none=True)
            yield format_sse_event(data_str=data, event=event.kind, id=str(event.number))
            after = event.number
        if events:
            silent = 0.0
            continue
        if ended:
            return
        if silent >= running.settings.heartbeat.total_seconds():
            yield KEEPALIVE_COMMENT
            silent = 0.0
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        silent += _LOOK_EVERY_SECONDS


def _look(running: Runtime, job_id: str, after: int) -> tuple[Sequence[EventView], bool]:
    """The next events, and whether the job had ended before they were read."""
    with running.database.read() as session:
        job = repository.find_job(session, job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}", "`fixnorm-tune list` shows all jobs")
        return events_after(session, job_id, after, limit=_EVENTS_AT_ONCE), job.state in TERMINAL_STATES
