"""``/api/v1/jobs``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from fixnorm_core.buckets import is_url
from fixnorm_core.code import kept_code
from fixnorm_core.errors import SpecError
from fixnorm_core.reports import ClassEvaluation
from fixnorm_core.spec import JobSpec, Summary
from service.access.callers import Caller, Calling
from service.access.headers import REPORT_POLICY
from service.answers import PROBLEM
from service.database.rows import JobRow
from service.jobs import repository
from service.jobs.amended import spec_of
from service.jobs.changes import change
from service.jobs.objects import read_file, read_object, stream_file, stream_object
from service.jobs.reopening import extend, retry
from service.jobs.submit import check_reach, submit
from service.jobs.verbs import PAUSE, RESUME, STOP, Verb, ask
from service.jobs.views import best_so_far, class_evaluation_of, job_view, trial_views, with_places
from service.jobs.warm_start import summary_of
from service.problems import BadCursor, NoResultYet, NotFound
from service.queue.places import find_places
from service.reporting.live import report_page
from service.runtime import Running
from service.schemas import (
    TERMINAL_STATES,
    BestView,
    Extension,
    JobChange,
    JobPage,
    JobState,
    JobView,
    TrialView,
)
from service.settings import BackendName
from service.webhooks import deliveries
from service.webhooks.targets import check_address

__all__ = [
    "NO_CONTROLS",
    "cancel_job",
    "change_job",
    "extend_job",
    "fetch_code",
    "fetch_report",
    "final_place",
    "find_classes",
    "list_jobs",
    "list_trials",
    "pause_job",
    "resume_job",
    "retry_job",
    "router",
    "show_job",
    "stop_job",
]

router = APIRouter(prefix="/jobs", tags=["jobs"])

_MARKDOWN = "text/markdown; charset=utf-8"

NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
"""No database can be asked for a text with a zero byte."""

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: PROBLEM}


@router.post(
    "", status_code=HTTPStatus.CREATED, responses={200: {"model": JobView}, 403: PROBLEM, 409: PROBLEM, 422: PROBLEM}
)
def submit_job(
    spec: JobSpec,
    running: Running,
    calling: Calling,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobView:
    """Stores a job and answers at once; with a key that was used before, answers that job and 200.

    Where the server has tokens, the job's `share.user` becomes the name of the caller's; only an administrator may name
    somebody else.
    """
    spec = calling.owning(spec)
    if spec.webhook is not None:
        check_address(spec.webhook, allow_private=running.settings.webhook_private)
    job, is_new = submit(
        spec,
        database=running.database,
        trials=running.trials,
        images=running.settings.images,
        reach=running.reach,
        files=running.files,
        nodes=running.nodes(),
        user_max=running.rules.user_max,
        trackers=running.settings.trackers,
        key=idempotency_key,
        now=running.now(),
    )
    if not is_new:
        response.status_code = HTTPStatus.OK
        return _view(running, job)
    running.wake()
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_view(job, attempts=(), best=None)


@router.get("", responses={422: PROBLEM})
def list_jobs(
    running: Running,
    calling: Calling,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
    search: Annotated[str | None, Query(max_length=200, pattern=NO_CONTROLS)] = None,
    user: Annotated[str | None, Query(min_length=1, max_length=100, pattern=NO_CONTROLS)] = None,
    mine: bool = False,
) -> JobPage:
    """Jobs, newest first: in a state, with some words in their name or id, or of a user, if those are given.

    `mine` are the jobs of the caller, whose name is that of their token.
    """
    if mine:
        user = _name_of(calling, instead_of=user)
    before = _position(cursor)
    with running.database.read() as session:
        rows = repository.page_of_jobs(session, state=state, limit=limit + 1, before=before, search=search, user=user)
    shown, more = rows[:limit], len(rows) > limit
    views = tuple(_views(running, shown))
    return JobPage(jobs=views, next_cursor=f"{shown[-1].created_at.isoformat()}~{shown[-1].id}" if more else None)


@router.get("/{job_id}", responses=_NOT_FOUND)
def show_job(job_id: str, running: Running) -> JobView:
    """One job."""
    return _view(running, _find(running, job_id))


@router.patch("/{job_id}", responses=_NOT_FOUND | {409: PROBLEM, 422: PROBLEM})
def change_job(job_id: str, wanted: JobChange, running: Running) -> JobView:
    """Changes a job's weight, priority, caps or parallel trials while it waits, runs or is paused."""
    change(job_id, wanted, database=running.database)
    running.wake()
    return _view(running, _find(running, job_id))


@router.get("/{job_id}/trials", responses=_NOT_FOUND)
def list_trials(job_id: str, running: Running) -> list[TrialView]:
    """A job's trials, by number."""
    job = _find(running, job_id)
    trials = running.trials(job)  # before their attempts, as for a job's view
    with running.database.read() as session:
        attempts = repository.attempts_of(session, [job_id])
    return trial_views(spec_of(job), trials, attempts=attempts, now=running.now())


@router.get("/{job_id}/best", responses=_NOT_FOUND | {409: PROBLEM})
def show_best(job_id: str, running: Running) -> BestView:
    """The best point so far; final once the job has succeeded."""
    view = _view(running, _find(running, job_id))
    if view.best is None:
        way_out = "Ask again later"
        if view.state in TERMINAL_STATES:
            way_out = "The job has ended, so there will be none: mend what ended it and submit it again"
        raise NoResultYet(f"{job_id} is {view.state} and no trial of it is complete ({view.reason})", way_out)
    return view.best


@router.get("/{job_id}/classes", responses=_NOT_FOUND | {409: PROBLEM})
def show_classes(job_id: str, running: Running) -> ClassEvaluation:
    """How each class fared on the test split, and what was taken for what, with the weights that the job has kept."""
    view = _view(running, _find(running, job_id))
    found = find_classes(running, view)
    if found is not None:
        return found
    if running.settings.backend is BackendName.SIMULATOR:
        way_out = "This server runs its simulator, which looks at no images"
    elif view.state in TERMINAL_STATES:
        way_out = "The job has ended, so there will be none"
    else:
        way_out = "The test split is evaluated once, at the job's end; wait for that"
    raise NoResultYet(f"{job_id} is {view.state}, and its classes were not counted on the test split", way_out)


@router.get("/{job_id}/summary", responses=_NOT_FOUND | {409: PROBLEM})
def show_summary(job_id: str, running: Running) -> Summary:
    """What a finished job has learned: a later job's ``search.warm_start`` takes it as it is."""
    return summary_of(_find(running, job_id), trials=running.trials)


@router.get("/{job_id}/weights", responses=_NOT_FOUND | {409: PROBLEM, 410: PROBLEM}, response_class=StreamingResponse)
def fetch_weights(job_id: str, running: Running) -> Response:
    """The best run's weights, as safetensors."""
    place, name = final_place(running, job_id, "weights"), f"{job_id}.safetensors"
    if is_url(place):
        return stream_object(running.files, place, job_id=job_id, filename=name)
    return stream_file(running.files, place, job_id=job_id, filename=name)


@router.get("/{job_id}/code", responses=_NOT_FOUND, response_class=PlainTextResponse)
def fetch_code(job_id: str, running: Running) -> PlainTextResponse:
    """The Python file that came with a job."""
    spec = spec_of(_find(running, job_id))
    running.files.have_code(spec, folder=running.settings.kept_code)
    text = kept_code(spec, folder=running.settings.kept_code)
    if text is None:
        raise NotFound(
            f"{job_id} came with no Python file, or it was deleted", "`fixnorm-tune show` tells of what it is"
        )
    return PlainTextResponse(text)


@router.get("/{job_id}/report", responses=_NOT_FOUND | {409: PROBLEM, 410: PROBLEM}, response_class=Response)
def fetch_report(
    job_id: str,
    running: Running,
    wanted: Annotated[Literal["markdown", "html"], Query(alias="format")] = "markdown",
) -> Response:
    """The report: of a job in any state as one HTML document that needs no network, of an ended one as Markdown."""
    if wanted == "html":
        page = report_page(running, show_job(job_id, running), list_trials(job_id, running))
        return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})
    place = final_place(running, job_id, "report")
    if not is_url(place):
        return Response(read_file(running.files, place, job_id=job_id), media_type=_MARKDOWN)
    return Response(read_object(running.files, place, job_id=job_id), media_type=_MARKDOWN)


@router.post("/{job_id}/pause", responses=_NOT_FOUND | {409: PROBLEM})
def pause_job(job_id: str, running: Running) -> JobView:
    """Lets a job's running trials finish and starts nothing more of it, until it is resumed or stopped."""
    return _ask(PAUSE, running, job_id)


@router.post("/{job_id}/resume", responses=_NOT_FOUND | {409: PROBLEM})
def resume_job(job_id: str, running: Running) -> JobView:
    """Goes on with a paused job."""
    return _ask(RESUME, running, job_id)


@router.post("/{job_id}/stop", responses=_NOT_FOUND | {409: PROBLEM})
def stop_job(job_id: str, running: Running) -> JobView:
    """Lets a job's running trials finish, then ends it with the best so far. A job that has ended stays as it is."""
    return _ask(STOP, running, job_id)


@router.post("/{job_id}/cancel", responses=_NOT_FOUND | {409: PROBLEM})
def cancel_job(job_id: str, running: Running) -> JobView:
    """Ends a job and its running trials now. A job that has ended stays as it is."""
    job = _find(running, job_id)
    if job.state not in TERMINAL_STATES:
        with running.database.write.begin() as session:
            repository.request_cancel(session, job_id)
        running.wake()
        job = _find(running, job_id)
    return _view(running, job)


@router.post("/{job_id}/extend", responses=_NOT_FOUND | {409: PROBLEM, 422: PROBLEM})
def extend_job(
    job_id: str,
    extension: Extension,
    running: Running,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobView:
    """Adds trials to a job's budget; one that has ended goes on from its own trials.

    A key that was used for this before changes nothing.
    """
    _check_reach(running, job_id)
    extend(job_id, extension.trials, database=running.database, key=idempotency_key, now=running.now())
    running.wake()
    return _view(running, _find(running, job_id))


@router.post("/{job_id}/retry", responses=_NOT_FOUND | {409: PROBLEM, 422: PROBLEM})
def retry_job(job_id: str, running: Running) -> JobView:
    """Has what failed of a job done again: failed trials as new ones at the same points, or the evaluation."""
    _check_reach(running, job_id)
    retry(job_id, database=running.database, trials=running.trials, now=running.now())
    running.wake()
    return _view(running, _find(running, job_id))


def _ask(verb: Verb, running: Running, job_id: str) -> JobView:
    ask(verb, job_id, database=running.database, now=running.now())
    running.wake()
    return _view(running, _find(running, job_id))


def find_classes(running: Running, job: JobView) -> ClassEvaluation | None:
    """How each class fared with the weights that a job has kept since it last ended; None if not counted."""
    kept = job.former or job.best
    if kept is None or kept.test is None:
        return None
    with running.database.read() as session:
        attempts = repository.attempts_of(session, [job.id])
    return class_evaluation_of(kept.weights_trial, attempts=attempts)


def _find(running: Running, job_id: str) -> JobRow:
    with running.database.read() as session:
        job = repository.find_job(session, job_id)
    if job is None:
        raise NotFound.job(job_id)
    return job


def _check_reach(running: Running, job_id: str) -> None:
    """A job goes on only with what it may still reach: the operator may have changed what that is."""
    check_reach(JobSpec.from_stored(_find(running, job_id).spec), running.reach)


def final_place(running: Running, job_id: str, what: str) -> str:
    """The path or address of what a job has kept since it last ended: its ``weights`` or its ``report``."""
    job = _find(running, job_id)
    path = (job.result or {}).get(what)
    if path is None:
        raise NoResultYet(
            f"{job_id} is {job.state} and has no {what}",
            f"{_when_kept(running, JobState(job.state), what)} "
            f"`fixnorm-tune report {job_id} -o report.html` shows a job in any state",
        )
    return str(path)


def _when_kept(running: Running, state: JobState, what: str) -> str:
    if running.settings.backend is BackendName.SIMULATOR and what == "weights":
        return "This server runs its simulator, which trains nothing."
    if state is JobState.SUCCEEDED and what == "weights":
        return "They were removed, or a simulator ran the job, which trains nothing."
    return f"A job keeps its {what} once it has succeeded" + (", not before." if state not in TERMINAL_STATES else ".")


def _view(running: Running, job: JobRow) -> JobView:
    (view,) = _views(running, [job])
    return view


def _views(running: Running, rows: Sequence[JobRow]) -> Iterator[JobView]:
    # Trials first: a result is stored with its attempt before Optuna is told, so each trial's attempt is known then
    trials = {job.id: running.trials(job) for job in rows if job.result is None or job.state not in TERMINAL_STATES}
    with running.database.read() as session:
        attempts = repository.attempts_of(session, [job.id for job in rows])
        told = deliveries.last_of(session, rows)
    places = _places(running, rows)
    for job in rows:
        mine, best = [attempt for attempt in attempts if attempt.job_id == job.id], None
        if (known := trials.get(job.id)) is not None:
            best = best_so_far(spec_of(job), known, attempts=mine, expected=running.expected(job.id))
        view = job_view(job, attempts=mine, best=best, place=places.get(job.id), delivery=told.get(job.id))
        yield with_places(view, state_dir=running.files.state_dir)


def _places(running: Running, jobs: Sequence[JobRow]) -> Mapping[str, int | None]:
    """The places of those jobs that wait for room; nothing is looked up when none does."""
    if not any(job.waiting_since is not None and job.state not in TERMINAL_STATES for job in jobs):
        return {}
    with running.database.read() as session:
        found = find_places(session, layout=running.layout(), rules=running.rules, now=running.now())
    return {place.standing.job_id: place.number for place in found}


def _name_of(caller: Caller, *, instead_of: str | None) -> str:
    if instead_of is not None:
        raise SpecError(f"both mine and user {instead_of} are given", "Give one of them")
    if caller.name is None:
        raise SpecError(
            "this server asks nobody who they are, so it cannot tell which jobs are yours", "Name a user instead"
        )
    return caller.name


def _position(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    time, _, job_id = cursor.partition("~")
    try:
        return datetime.fromisoformat(time), job_id
    except ValueError:
        raise BadCursor(f"cursor {cursor!r} is not one of ours", "Take next_cursor of the page before") from None
