"""The pages' addresses: ``/``, ``/jobs/{id}``, the parts of them that are fetched anew, and the verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from fixnorm_core.errors import SpecError
from service.access.callers import Caller, Calling
from service.events.records import last_number
from service.jobs import endpoints as jobs
from service.jobs.repository import users
from service.pages.assets import find_asset
from service.pages.rendering import render
from service.problems import NotFound
from service.reporting.classes import class_rows, confusion_chart
from service.reporting.figures import curves_chart, surface_chart
from service.reporting.live import study_of
from service.reporting.recipe import job_file, training_code
from service.runtime import Running, Runtime
from service.schemas import TERMINAL_STATES, Extension, JobState, JobView

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_JOBS_ON_A_PAGE = 50
_MOST_DIGITS = 9  # Python takes no number of very many


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that a user does to a job by a button.

    Attributes:
        label: On the button.
        confirm: What is asked first; empty asks nothing.
        states: In which states of a job the button is there.
        act: Does it, as the API does.
        number: What the number beside the button is of; None where there is none.
    """

    label: str
    confirm: str
    states: frozenset[JobState]
    act: Callable[[str, Runtime, int], Any]
    number: str | None = None


_ACTIVE = frozenset(JobState) - TERMINAL_STATES
_GOING_ON = frozenset({JobState.QUEUED, JobState.RUNNING})
_STOP = "Stop this job? Its running trials finish, then the best so far is the result, without further confirming runs."
_CANCEL = "Cancel this job now? Its running trials end without a result."


def _plain(act: Callable[[str, Runtime], Any]) -> Callable[[str, Runtime, int], Any]:
    return lambda job_id, running, _number: act(job_id, running)


def _extend(job_id: str, running: Runtime, number: int) -> JobView:
    try:
        extension = Extension(trials=number)
    except ValidationError:
        raise SpecError("a job is extended by 1 to 100000 trials", "Give such a number") from None
    return jobs.extend_job(job_id, extension, running)


VERBS: Mapping[str, Verb] = {
    "pause": Verb("Pause", "", _GOING_ON, _plain(jobs.pause_job)),
    "resume": Verb("Resume", "", frozenset({JobState.PAUSED}), _plain(jobs.resume_job)),
    "stop": Verb("Stop", _STOP, _GOING_ON | {JobState.PAUSED}, _plain(jobs.stop_job)),
    "cancel": Verb("Cancel", _CANCEL, _ACTIVE, _plain(jobs.cancel_job)),
    "retry": Verb("Retry", "", frozenset({JobState.FAILED}), _plain(jobs.retry_job)),
    "extend": Verb("Extend", "", _GOING_ON | {JobState.PAUSED} | TERMINAL_STATES, _extend, number="trials"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list is of.

    Attributes:
        cursor: Where the page before ended.
        search: What is in their name or id.
        state: Their state; the empty one of the form is any.
        user: Whose they are; the empty one is anybody's.
    """

    cursor: str | None = None
    search: Annotated[str, Query(max_length=200, pattern=jobs.NO_CONTROLS)] = ""
    state: JobState | Literal[""] = ""
    user: Annotated[str, Query(max_length=100, pattern=jobs.NO_CONTROLS)] = ""

    @property
    def in_state(self) -> JobState | None:
        """Their state; None for any."""
        return self.state or None

    @property
    def is_narrow(self) -> bool:
        """Whether it leaves any out."""
        return bool(self.search or self.state or self.user)

    def query(self, cursor: str | None = None) -> str:
        """The query of an address of the same list, from a place on."""
        given = {"search": self.search, "state": self.state, "user": self.user, "cursor": cursor or ""}
        told = urlencode({name: value for name, value in given.items() if value})
        return f"?{told}" if told else ""


@router.get("/", response_class=HTMLResponse)
def show_jobs(running: Running, calling: Calling, wanted: Annotated[Wanted, Depends()]) -> HTMLResponse:
    """All jobs, newest first, or those that are looked for."""
    with running.database.read() as session:
        known = users(session)  # once a page, not at each look at the list: it reads all jobs
    names = [wanted.user] if wanted.user and wanted.user not in known else []
    return render("jobs.html", caller=calling, users=[*known, *names], **_list(running, calling, wanted))


@router.get("/jobs", response_class=HTMLResponse)
def show_list(running: Running, calling: Calling, wanted: Annotated[Wanted, Depends()]) -> HTMLResponse:
    """The list alone, for the page to replace."""
    return render("jobs_list.html", **_list(running, calling, wanted))


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def show_job(job_id: str, running: Running, calling: Calling) -> HTMLResponse:
    """One job, live."""
    return render("job.html", **_job(running, job_id, calling))


@router.get("/jobs/{job_id}/live", response_class=HTMLResponse)
def show_live(job_id: str, running: Running, calling: Calling) -> HTMLResponse:
    """What changes on a job's page, for the page to replace."""
    return render("job_live.html", **_job(running, job_id, calling))


@router.get("/jobs/{job_id}/charts", response_class=JSONResponse)
def show_charts(job_id: str, running: Running) -> JSONResponse:
    """What a job's page draws: plotly's data and layouts, by name."""
    job, trials = jobs.show_job(job_id, running), jobs.list_trials(job_id, running)
    charts = {
        "surface": surface_chart(job.spec, trials, best=job.best, study=study_of(running, job)),
        "curves": curves_chart(trials, best=job.best),
    }
    classes = jobs.find_classes(running, job)
    if classes is not None and (matrix := confusion_chart(classes)) is not None:
        charts["confusion"] = matrix
    return JSONResponse(charts, headers={"Cache-Control": "no-store"})


@router.get("/jobs/{job_id}/report.html", response_class=HTMLResponse)
def show_report(job_id: str, running: Running) -> Response:
    """The report of a job as it is now: charts and all, one file."""
    return jobs.fetch_report(job_id, running, "html")


@router.post("/jobs/{job_id}/{verb}", response_class=RedirectResponse)
async def act(job_id: str, verb: str, running: Running, request: Request) -> RedirectResponse:
    """Does what a button says and shows the job again. Requests of other sites' pages never get here."""
    if verb not in VERBS:
        raise NotFound(f"there is no verb {verb!r}", f"Those that there are: {', '.join(VERBS)}")
    fields = parse_qs((await request.body()).decode(errors="replace"))
    text = fields.get("number", ["0"])[0]
    number = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else 0
    await run_in_threadpool(VERBS[verb].act, job_id, running, number)
    return RedirectResponse(f"/jobs/{job_id}", HTTPStatus.SEE_OTHER)


@router.get("/assets/{name}", response_class=FileResponse)
def fetch_asset(name: str, version: Annotated[str | None, Query(alias="v")] = None) -> FileResponse:
    """A script or a style of the pages; one asked for with its version never changes."""
    found = find_asset(name)
    if found is None:
        raise NotFound(f"there is no asset {name!r}", "Load / and what it names")
    path, media_type = found
    kept = "public, max-age=31536000, immutable" if version else "no-cache"
    return FileResponse(path, media_type=media_type, headers={"Cache-Control": kept})


def _list(running: Runtime, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    page = jobs.list_jobs(
        running,
        caller,
        state=wanted.in_state,
        limit=_JOBS_ON_A_PAGE,
        cursor=wanted.cursor,
        search=wanted.search,
        user=wanted.user or None,
    )
    return {"page": page, "wanted": wanted, "states": list(JobState), "now": running.now()}


def _job(running: Runtime, job_id: str, caller: Caller) -> dict[str, Any]:
    with running.database.read() as session:
        number = last_number(session, job_id)  # first: whatever comes later is news to the page
    job, trials = jobs.show_job(job_id, running), jobs.list_trials(job_id, running)
    accuracies = [accuracy for trial in trials for accuracy in trial.curve]
    best, may_change = job.best, caller.may_change(job.spec.share.user)
    classes = jobs.find_classes(running, job)
    return {
        "job": job,
        "trials": trials,
        "classes": class_rows(classes) if classes is not None else [],
        "is_matrix_drawn": classes is not None and confusion_chart(classes) is not None,
        "knobs_of_job": list(job.spec.search.space),
        "scale": (min(accuracies, default=0.0), max(accuracies, default=1.0)),
        "verbs": {name: verb for name, verb in VERBS.items() if job.state in verb.states} if may_change else {},
        "caller": caller,
        "code": training_code(job.spec, best) if best is not None else None,
        "file": job_file(job.spec, best) if best is not None else None,
        "last_event": number,
        "now": running.now(),
    }
