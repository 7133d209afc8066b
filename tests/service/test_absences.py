"""A server was away for two hours: of what that is counted, and of what not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from byhand import attempts, put, reason_of, run_to_end, server, state_of
from sqlalchemy import select

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.database.rows import AttemptRow, AttemptState, EventRow, JobRow
from service.jobs.endpoints import list_trials
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

pytestmark = pytest.mark.both_databases

ABSENCE = timedelta(hours=2)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pass_time(service: Service) -> None:
    """All that is stored is so much older: nothing was done since."""
    with service.runtime.database.write.begin() as session:
        for row in session.scalars(select(AttemptRow)):
            row.created_at -= ABSENCE
            row.ended_at = row.ended_at - ABSENCE if row.ended_at is not None else None
        for event in session.scalars(select(EventRow)):
            event.created_at -= ABSENCE
        for job in session.scalars(select(JobRow)):
            job.created_at -= ABSENCE
            job.started_at = job.started_at - ABSENCE if job.started_at is not None else None


def job_of(job: dict[str, Any], **limits: Any) -> JobSpec:
    budget = {"max_trials": 3, "confirm_runs": 0, "stop_early": False} | limits
    return JobSpec.model_validate(job | {"budget": budget})


def left_alone(settings: Settings, spec: JobSpec) -> str:
    """A job that trained some epochs of its first trial before its server was gone."""
    backend = SimulatorBackend(Recording.packaged(), epoch_seconds=0.02)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        for _ in range(1000):
            service.dispatcher.tick()
            if any(trial.curve for trial in list_trials(job_id, service.runtime)):
                break
            backend.wait(0.01)
        pass_time(service)
    return job_id


def test_a_trial_lasts_as_long_as_its_attempts_ran_and_not_until_a_server_was_back(
    settings: Settings, job: dict[str, Any]
) -> None:
    job_id = left_alone(settings, job_of(job))
    with server(settings) as service:
        service.dispatcher.recover()
        first = attempts(service, job_id)[0]
        assert first.state == AttemptState.LOST
        assert first.ended_at is not None
        assert timedelta(0) <= first.ended_at - first.created_at < timedelta(minutes=1)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        trials = list_trials(job_id, service.runtime)
        assert (len(trials), trials[0].attempts) == (3, 2)
        assert all(trial.seconds is not None and trial.seconds < 60 for trial in trials)


@pytest.mark.parametrize(("max_time", "ends"), [("1h", True), ("3h", False)])
def test_an_absence_counts_for_max_time_as_for_whoever_waits_for_the_job(
    settings: Settings, job: dict[str, Any], max_time: str, ends: bool
) -> None:
    job_id = left_alone(settings, job_of(job, max_time=max_time))
    with server(settings) as service:
        service.dispatcher.recover()
        state = run_to_end(service, job_id)
        assert (state is JobState.FAILED, "max_time of 1h is over" in reason_of(service, job_id)) == (ends, ends)


class Late(SimulatorBackend):
    """Runs trials, of whose ends it tells two hours later."""

    def poll(self) -> Sequence[Update]:
        told = []
        for update in super().poll():
            ago = ABSENCE.total_seconds() if update.outcome is not None else 0.0
            told.append(Update(update.attempt_id, update.reports, update.outcome, update.place, None, ago))
        return told


def test_what_ended_while_no_server_was_there_ended_then(settings: Settings, job: dict[str, Any]) -> None:
    clock = [NOON]
    with server(settings, backend=Late(Recording.packaged()), now=lambda: clock[0]) as service:
        job_id = put(service, job_of(job, max_trials=1))
        service.dispatcher.tick()
        clock[0] = NOON + ABSENCE + timedelta(minutes=7)
        while attempts(service, job_id)[0].ended_at is None:
            service.dispatcher.tick()
        (trial,) = list_trials(job_id, service.runtime)
        assert trial.seconds == 7 * 60
        assert attempts(service, job_id)[0].ended_at == NOON + timedelta(minutes=7)
        assert state_of(service, job_id) is JobState.RUNNING
