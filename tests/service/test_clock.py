"""The machine's clock is set by hours, while jobs run and while no server does: no job is harmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog
from byhand import attempts, points, put, run_to_end, server, trials
from serving import serving

from fixnorm_core.spec import JobSpec
from service.clock import SteadyClock
from service.composition import Service, build
from service.database.rows import AttemptState
from service.events.records import events_after
from service.jobs import repository
from service.jobs.views import job_view, trial_views
from service.schemas import JobState, JobView, TrialView
from service.settings import Settings
from worker.contracts import Resources, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
STEPS = [timedelta(hours=3), timedelta(hours=-3)]


@dataclass
class Machine:
    """What its clock shows, and what has passed."""

    passed: timedelta = timedelta(0)
    off: timedelta = timedelta(0)

    def wall(self) -> datetime:
        return NOON + self.passed + self.off

    def elapsed(self) -> float:
        return 1000.0 + self.passed.total_seconds()


@dataclass
class Minutes(SimulatorBackend):
    """An epoch takes a minute; after some epochs the clock is set."""

    machine: Machine = field(default_factory=Machine)
    step: timedelta = timedelta(0)
    after: int = 0

    def poll(self) -> Sequence[Update]:
        if self._replays:
            self.machine.passed += timedelta(minutes=1)
        if self.machine.passed == timedelta(minutes=self.after):
            self.machine.off = self.step
        return super().poll()


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    epochs = Recording.packaged().job.training.epochs
    limits = {"max_time": f"{6 * epochs}min", "max_time_without_progress": "2h"}
    budget = {"max_trials": 20, "confirm_runs": 1, "stop_early": False, "parallel_trials": 1} | limits
    search = job["search"] | {"sampler": "random", "pruner": "none"}
    return JobSpec.model_validate(job | {"search": search, "budget": budget})


def views(service: Service, job_id: str) -> tuple[JobView, list[TrialView]]:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    rows, now = attempts(service, job_id), service.runtime.now()
    spec = JobSpec.from_stored(job.spec)
    return job_view(job, attempts=rows, best=None), trial_views(spec, trials(service, job_id), attempts=rows, now=now)


def test_a_steady_clock_goes_on_and_tells_once_that_the_machines_was_set() -> None:
    machine = Machine()
    clock = SteadyClock(machine.wall, machine.elapsed)
    assert clock() == NOON
    with structlog.testing.capture_logs() as told:
        for off in (*STEPS, STEPS[-1], timedelta(0)):
            machine.off, before = off, clock()
            machine.passed += timedelta(seconds=1)
            assert clock() - before == timedelta(seconds=1)
    assert [line["ahead_seconds"] for line in told] == [10800, -10800, 0]


@pytest.mark.parametrize("step", STEPS, ids=["forward", "back"])
def test_a_clock_that_is_set_while_a_job_runs_changes_nothing_of_it(
    settings: Settings, spec: JobSpec, tmp_path_factory: pytest.TempPathFactory, step: timedelta
) -> None:
    found = []
    for used in (timedelta(0), step):
        backend = Minutes(Recording.packaged(), Resources(cpus=1.0, gpus=0.0), step=used, after=13)
        folder = tmp_path_factory.mktemp("state")
        alone = settings.model_copy(update={"state_dir": folder, "database_url": None})
        clock = SteadyClock(backend.machine.wall, backend.machine.elapsed)
        with server(alone, backend=backend, now=clock) as service:
            job_id = put(service, spec)
            assert run_to_end(service, job_id) is JobState.SUCCEEDED
            view, shown = views(service, job_id)
            assert view.started_at is not None
            assert view.ended_at is not None
            times = [(row.created_at, row.ended_at) for row in attempts(service, job_id)]
            found.append((view.reason, view.ended_at - view.started_at, times, shown, points(service, job_id)))
    assert found[0] == found[1]
    assert "max_time of" in found[0][0]


@pytest.mark.both_databases
@pytest.mark.parametrize("step", STEPS, ids=["forward", "back"])
def test_a_clock_that_is_set_while_no_server_runs_confuses_no_attempts_events_or_durations(
    settings: Settings, spec: JobSpec, step: timedelta
) -> None:
    unlimited = {"max_trials": 4, "max_time": None, "max_time_without_progress": None}
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=unlimited)})
    machine = Machine()
    with server(settings, backend=Minutes(Recording.packaged(), machine=machine), now=machine.wall) as service:
        job_id = put(service, spec)
        for _ in range(13):
            service.dispatcher.tick()
    machine.off = step
    with server(settings, backend=Minutes(Recording.packaged(), machine=machine), now=machine.wall) as service:
        service.dispatcher.recover()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        view, shown = views(service, job_id)
        assert (view.progress.finished, view.progress.running, view.progress.failed) == (4, 0, 0)
        assert all(trial.seconds is not None and trial.seconds >= 0 for trial in shown)
        rows = attempts(service, job_id)
        (cut,) = {row.trial_number for row in rows if row.state == AttemptState.LOST}
        states = [row.state for row in rows if row.trial_number == cut]
        assert states[:2] == [AttemptState.LOST, AttemptState.COMPLETE]
        with service.runtime.database.read() as session:
            events = events_after(session, job_id, 0, limit=10_000)
        assert [event.number for event in events] == list(range(1, len(events) + 1))


def test_jobs_that_are_submitted_around_a_step_back_are_listed_once_each(
    settings: Settings, job: dict[str, Any]
) -> None:
    machine = Machine()
    with (
        serving(build(settings, now=machine.wall).app) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        submitted = []
        for off in (0, 3, -3, -3, 0):
            machine.off = timedelta(hours=off)
            submitted.append(http.post("/api/v1/jobs", json=job).json()["id"])
        listed, cursor = [], {}
        while True:
            page = http.get("/api/v1/jobs", params={"limit": 1} | cursor).json()
            listed += [found["id"] for found in page["jobs"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
    assert sorted(listed) == sorted(submitted)
