"""A server without HTTP whose dispatcher is moved by hand, tick by tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fixnorm_core.spec import JobSpec
from service.composition import Service, build
from service.database.rows import AttemptRow
from service.jobs import repository
from service.jobs.submit import submit
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import Backend


def utc_now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def server(
    settings: Settings, *, backend: Backend | None = None, now: Callable[[], datetime] = utc_now
) -> Iterator[Service]:
    """A server whose dispatcher is moved by hand."""
    service = build(settings, backend=backend, now=now)
    try:
        yield service
    finally:
        service.close()


def put(service: Service, spec: JobSpec) -> str:
    job, _ = submit(
        spec,
        database=service.runtime.database,
        trials=service.runtime.trials,
        images=Path("/"),
        reach=service.runtime.reach,
        files=service.runtime.files,
        nodes=service.runtime.nodes(),
        trackers=service.runtime.settings.trackers,
        key=None,
        now=service.runtime.now(),
    )
    service.dispatcher.wake()
    return job.id


def state_of(service: Service, job_id: str) -> JobState:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return JobState(job.state)


def reason_of(service: Service, job_id: str) -> str:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return job.reason


def attempts(service: Service, job_id: str) -> list[AttemptRow]:
    with service.runtime.database.read() as session:
        return list(repository.attempts_of(session, [job_id]))


def run_to_end(service: Service, job_id: str, *, ticks: int = 2000) -> JobState:
    for _ in range(ticks):
        service.dispatcher.tick()
        if (state := state_of(service, job_id)) not in (JobState.QUEUED, JobState.RUNNING):
            return state
    raise AssertionError("the job did not end")


@contextmanager
def restarted(settings: Settings, spec: JobSpec, *, ticks: int) -> Iterator[tuple[Service, str]]:
    """A second server on the state of a first one that was gone after so many ticks, with the job at its end."""
    with server(settings) as service:
        job_id = put(service, spec)
        for _ in range(ticks):
            service.dispatcher.tick()
    with server(settings) as service:
        service.dispatcher.recover()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        yield service, job_id


def points(service: Service, job_id: str) -> list[dict[str, float]]:
    return [trial.params for trial in trials(service, job_id)]


def trials(service: Service, job_id: str) -> list[Any]:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return list(service.runtime.trials(job))
