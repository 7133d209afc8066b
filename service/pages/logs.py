"""``/jobs/{id}/trials/{n}/log``: what the attempts at a trial have logged, to read in the browser."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from service.access.callers import Calling
from service.jobs.logs import find_log, read_end, why_nothing
from service.pages.rendering import render
from service.runtime import Running, Runtime
from service.schemas import TERMINAL_STATES

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_MOST_BYTES = 64 * 1024  # of a log that a page shows: its end
_SECONDS_WHILE_LIVE = 2
_SECONDS_BETWEEN_ATTEMPTS = 15

Attempt = Annotated[int | None, Query(ge=1)]


@router.get("/jobs/{job_id}/trials/{number}/log", response_class=HTMLResponse)
def show_log(job_id: str, number: int, running: Running, calling: Calling, attempt: Attempt = None) -> HTMLResponse:
    """The log of an attempt, counted from 1, or of the last one to train the trial."""
    return render("log.html", caller=calling, **_log(running, job_id, number, attempt))


@router.get("/jobs/{job_id}/trials/{number}/log/live", response_class=HTMLResponse)
def show_live_log(job_id: str, number: int, running: Running, attempt: Attempt = None) -> HTMLResponse:
    """What changes on that page, for the page to replace."""
    return render("log_live.html", **_log(running, job_id, number, attempt))


def _log(running: Runtime, job_id: str, number: int, attempt: int | None) -> dict[str, Any]:
    log = find_log(running, job_id, number, attempt)
    text, size = read_end(log.file, _MOST_BYTES)  # after its state was read: an ended attempt's is whole
    look_after: int | None = None
    if log.is_live:
        look_after = _SECONDS_WHILE_LIVE
    elif attempt is None and log.job.state not in TERMINAL_STATES:  # the next attempt is shown when it begins
        look_after = _SECONDS_BETWEEN_ATTEMPTS
    return {
        "log": log,
        "number": number,
        "asked": attempt,
        "text": text,
        "size": size,
        "shown": len(text.encode()),
        "why_nothing": why_nothing(running, log, f"fixnorm-tune logs {job_id} {number}"),
        "look_after": look_after,
        "now": running.now(),
    }
