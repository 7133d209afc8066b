"""``/api/v1/jobs/{id}/trials/{n}/logs``: what an attempt has logged, at once or as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow
from service.jobs import repository
from service.jobs.folders import trial_folder
from service.problems import NoResultYet, NotFound
from service.runtime import Running, Runtime
from service.schemas import ATTEMPT_HEADER, Problem
from service.settings import BackendName
from worker.contracts import log_path

__all__ = ["router"]

router = APIRouter(prefix="/jobs", tags=["jobs"])

_LOOK_EVERY_SECONDS = 0.2
_BYTES_AT_ONCE = 64 * 1024
_PROBLEM: dict[str, Any] = {"model": Problem, "content": {"application/problem+json": {}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"The log as text; the header `{ATTEMPT_HEADER}` says of which attempt, counted from 1.",
        "content": {"text/plain": {}},
    },
    204: {"description": "With `follow`: the attempt has ended and its log has no more; do not ask again."},
    404: _PROBLEM,
    409: _PROBLEM,
}


@router.get("/{job_id}/trials/{number}/logs", response_class=StreamingResponse, responses=_RESPONSES)
def stream_log(
    job_id: str,
    number: int,
    running: Running,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    follow: bool = False,
) -> Response:
    """What an attempt at a trial has logged: that of `attempt`, counted from 1, or of the last one to train it.

    Begins after `offset` bytes. With `follow` the answer goes on until the attempt has ended; since the
    connection or the server may end before that, whoever follows asks again, with the attempt of the answer's header
    and the bytes that have arrived as the offset, until the answer is 204.
    """
    row, count = _attempt(running, job_id, number, attempt)
    path = log_path(trial_folder(running.settings.state_dir, job_id, number), row.id)
    if not path.exists() and not (follow and row.state in LIVE_ATTEMPT_STATES):
        raise NoResultYet(
            f"attempt {count} at trial {number} of {job_id} is {row.state} and has logged nothing",
            _why_nothing(running, row, f"fixnorm-tune logs {job_id} {number}"),
        )
    if follow and row.state not in LIVE_ATTEMPT_STATES and not _read(path, offset):
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={ATTEMPT_HEADER: str(count)})
    headers = {ATTEMPT_HEADER: str(count), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    pieces = _pieces(running, row.id, path, offset=offset, follow=follow)
    return StreamingResponse(pieces, media_type="text/plain; charset=utf-8", headers=headers)


def _why_nothing(running: Runtime, row: AttemptRow, command: str) -> str:
    if running.settings.backend is BackendName.SIMULATOR:
        return "This server runs its simulator, which trains nothing and logs nothing unless something goes wrong"
    if row.state in LIVE_ATTEMPT_STATES:
        return f"Its worker has not said anything yet: '{command} --follow' waits for what it says"
    return "It ended before its worker said anything"


def _attempt(running: Runtime, job_id: str, number: int, count: int | None) -> tuple[AttemptRow, int]:
    """An attempt and its number among those at the trial."""
    with running.database.read() as session:
        if repository.find_job(session, job_id) is None:
            raise NotFound(f"there is no job {job_id!r}", "`fixnorm-tune list` shows all jobs")
        rows = [row for row in repository.attempts_of(session, [job_id]) if row.trial_number == number]
    if not rows:
        raise NotFound(f"{job_id} has started no trial {number}", f"`fixnorm-tune trials {job_id}` shows its trials")
    rows.sort(key=lambda row: int(row.id.rpartition(".")[2]))  # their times follow a clock that may be set back
    if count is None:  # the evaluation of its weights comes after its training, and says little
        trained = [place for place, row in enumerate(rows, start=1) if row.kind == AttemptKind.TRAIN]
        count = trained[-1] if trained else len(rows)
    if count > len(rows):
        raise NotFound(
            f"trial {number} of {job_id} has {len(rows)} attempts, and no attempt {count}",
            f"Ask for one from 1 to {len(rows)}, or leave attempt out for the last that trained it",
        )
    return rows[count - 1], count


async def _pieces(running: Runtime, attempt_id: str, path: Path, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
    live = follow
    while True:
        while piece := await run_in_threadpool(_read, path, offset):
            offset += len(piece)
            yield piece
        if not live or running.stopping.is_set():
            return
        # Looked at before the last read, so that what an ended attempt has logged is read to its end.
        live = await run_in_threadpool(_is_live, running, attempt_id)
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_BYTES_AT_ONCE)
    except FileNotFoundError:  # its worker has not begun
        return b""


def _is_live(running: Runtime, attempt_id: str) -> bool:
    with running.database.read() as session:
        row = repository.find_attempt(session, attempt_id)
    return row is not None and row.state in LIVE_ATTEMPT_STATES
