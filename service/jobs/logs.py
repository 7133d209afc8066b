"""``/api/v1/jobs/{id}/trials/{n}/logs``: what an attempt has logged, at once or as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fixnorm_core.errors import DataError
from service.answers import PROBLEM
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow, JobRow
from service.jobs import repository
from service.jobs.files import LogFile
from service.jobs.last_words import last_words_of
from service.problems import NoResultYet, NotFound
from service.runtime import Running, Runtime
from service.schemas import ATTEMPT_HEADER
from service.settings import BackendName

__all__ = ["AttemptLog", "find_log", "read_end", "router", "why_nothing"]

router = APIRouter(prefix="/jobs", tags=["jobs"])

_LOOK_EVERY_SECONDS = 0.2
_ASK_EVERY_SECONDS = 2.0
"""A store, of which each look is a request."""
_BYTES_AT_ONCE = 64 * 1024
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"The log as text; the header `{ATTEMPT_HEADER}` says of which attempt, counted from 1.",
        "content": {"text/plain": {}},
    },
    204: {"description": "With `follow`: the attempt has ended and its log has no more; do not ask again."},
    404: PROBLEM,
    409: PROBLEM,
}


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """Where an attempt logs.

    Attributes:
        job: Its job.
        attempts: All attempts at its trial, in their order.
        count: Its number among them, from 1.
        file: The log; there is none before the first line.
    """

    job: JobRow
    attempts: Sequence[AttemptRow]
    count: int
    file: LogFile

    @property
    def attempt(self) -> AttemptRow:
        """The attempt."""
        return self.attempts[self.count - 1]

    @property
    def is_live(self) -> bool:
        """Whether it may log more."""
        return self.attempt.state in LIVE_ATTEMPT_STATES


@router.get("/{job_id}/trials/{number}/logs", response_class=StreamingResponse, responses=_RESPONSES)
def stream_log(
    job_id: str,
    number: int,
    running: Running,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    offset: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    follow: bool = False,
) -> Response:
    """What an attempt at a trial has logged: that of `attempt`, counted from 1, or of the last one to train it.

    Begins after `offset` bytes. With `follow` the answer goes on until the attempt has ended; since the
    connection or the server may end before that, whoever follows asks again, with the attempt of the answer's header
    and the bytes that have arrived as the offset, until the answer is 204.
    """
    log = find_log(running, job_id, number, attempt)
    if log.file.size() is None and not (follow and log.is_live):
        raise NoResultYet(
            f"attempt {log.count} at trial {number} of {job_id} is {log.attempt.state} and has logged nothing",
            why_nothing(running, log, f"fixnorm-tune logs {job_id} {number}"),
        )
    if follow and not log.is_live and not log.file.read(offset, 1):
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={ATTEMPT_HEADER: str(log.count)})
    headers = {ATTEMPT_HEADER: str(log.count), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    pieces = _pieces(running, log, offset=offset, follow=follow)
    return StreamingResponse(pieces, media_type="text/plain; charset=utf-8", headers=headers)


def why_nothing(running: Runtime, log: AttemptLog, command: str) -> str:
    """Why an attempt has logged nothing, in words; ``command`` would show what it logs."""
    if running.settings.backend is BackendName.SIMULATOR:
        return "This server runs its simulator, which trains nothing and logs nothing unless something goes wrong"
    if log.is_live:
        return f"Its worker has not said anything yet: '{command} --follow' waits for what it says"
    return "It ended before its worker said anything"


def find_log(running: Runtime, job_id: str, number: int, count: int | None) -> AttemptLog:
    """The log of an attempt at a trial: of that ``count``, from 1, or of the last one to train it.

    Raises:
        NotFound: If there is no such job, trial or attempt.
    """
    with running.database.read() as session:
        job = repository.find_job(session, job_id)
        if job is None:
            raise NotFound.job(job_id)
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
    row = rows[count - 1]
    file = running.files.log(job_id, number, row.id, last_words=last_words_of(row))
    return AttemptLog(job, rows, count, file)


def read_end(file: LogFile, most: int) -> tuple[str, int]:
    """The last lines of a log, at most ``most`` bytes of them, and how many bytes all of it has; 0 where none is."""
    size = file.size() or 0
    start, end = max(0, size - most), b""
    while piece := file.read(start + len(end), most - len(end)):
        end += piece
    if size > most:  # it begins with a whole line, unless one line is all of it
        end = end[end.find(b"\n") + 1 :]
    return end.decode(errors="replace"), size


async def _pieces(running: Runtime, log: AttemptLog, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
    live, file = follow, log.file
    pause = _LOOK_EVERY_SECONDS if file.store is None else _ASK_EVERY_SECONDS
    while True:
        try:
            while piece := await run_in_threadpool(file.read, offset, _BYTES_AT_ONCE):
                offset += len(piece)
                yield piece
        except DataError:  # the store does not answer any more; whoever follows asks again, and is told so
            return
        if not live or running.stopping.is_set():
            return
        # Looked at before the last read, so that what an ended attempt has logged is read to its end.
        row = await run_in_threadpool(_find, running, log.attempt.id)
        live = row is not None and row.state in LIVE_ATTEMPT_STATES
        if row is not None:
            file = replace(file, last_words=last_words_of(row).encode())
        await asyncio.sleep(pause)


def _find(running: Runtime, attempt_id: str) -> AttemptRow | None:
    with running.database.read() as session:
        return repository.find_attempt(session, attempt_id)
