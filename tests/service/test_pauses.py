"""What a job was paused is left out of its limits of time, but for the deadline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from byhand import put, reason_of, run_to_end, server, state_of

from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.jobs import repository
from service.jobs.pauses import begin_pause, end_pause, time_paused
from service.jobs.reopening import extend
from service.jobs.verbs import PAUSE, RESUME, STOP, Verb, ask
from service.schemas import JobState
from service.settings import Settings

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    time = NOON

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(job: dict[str, Any], **limits: Any) -> JobSpec:
    budget = {"max_trials": 1000, "parallel_trials": 1, "confirm_runs": 0, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget | limits})


def tell(service: Service, verb: Verb, job_id: str) -> None:
    ask(verb, job_id, database=service.runtime.database, now=service.runtime.now())
    look(service)


def look(service: Service) -> None:
    service.dispatcher.wake()
    service.dispatcher.tick()


def stop_reason(service: Service, job_id: str) -> str | None:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return job.stop_reason


def test_spans_are_counted_within_the_time_that_is_asked_for() -> None:
    pauses = end_pause(begin_pause(None, NOON), NOON + HOUR)
    pauses = begin_pause(pauses, NOON + 3 * HOUR)
    now = NOON + 5 * HOUR
    assert time_paused(None, since=NOON, now=now) == 0 * HOUR
    assert time_paused(pauses, since=NOON - HOUR, now=now) == 3 * HOUR
    assert time_paused(pauses, since=NOON + 0.5 * HOUR, now=now) == 2.5 * HOUR
    assert time_paused(pauses, since=NOON + 4 * HOUR, now=now) == HOUR
    assert time_paused(pauses, since=NOON, now=NOON - HOUR) == 0 * HOUR  # the clock was set back
    assert end_pause(None, NOON) == {"spans": [[NOON.isoformat()] * 2]}  # paused by an older version


@pytest.mark.both_databases
@pytest.mark.parametrize("limit", ["max_time", "max_time_without_progress"])
def test_a_limit_stands_still_while_a_job_is_paused_and_goes_on_where_it_was_over_a_restart(
    settings: Settings, job: dict[str, Any], clock: Clock, limit: str
) -> None:
    spec = limited(job, **{limit: "1h"})
    with server(settings, now=clock) as service:
        job_id = put(service, spec)
        for _ in range(12):  # the first trial has ended
            look(service)
        clock.time += 0.5 * HOUR
        tell(service, PAUSE, job_id)
        clock.time += 10 * HOUR
    with server(settings, now=clock) as service:
        look(service)
        tell(service, RESUME, job_id)
        assert (state_of(service, job_id), stop_reason(service, job_id)) == (JobState.RUNNING, None)
        clock.time += 0.4 * HOUR
        tell(service, PAUSE, job_id)
        tell(service, PAUSE, job_id)
        clock.time += HOUR
        tell(service, RESUME, job_id)
        assert stop_reason(service, job_id) is None
        clock.time += 0.2 * HOUR
        look(service)
        assert f"{limit}" in (stop_reason(service, job_id) or "")
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


def test_so_it_is_when_a_full_disk_has_paused_it(settings: Settings, job: dict[str, Any], clock: Clock) -> None:
    with server(settings, now=clock) as service:
        job_id = put(service, limited(job, max_time="1h"))
        look(service)
        with service.runtime.database.write.begin() as session:
            assert repository.pause_job(session, job_id, reason="the disk is full", now=clock())
            assert repository.pause_job(session, job_id, reason="it still is", now=clock())
        clock.time += 2 * HOUR
        tell(service, RESUME, job_id)
        assert stop_reason(service, job_id) is None


def test_a_deadline_goes_on(settings: Settings, job: dict[str, Any], clock: Clock) -> None:
    with server(settings, now=clock) as service:
        job_id = put(service, limited(job, deadline=(NOON + HOUR).isoformat()))
        for _ in range(12):
            look(service)
        tell(service, PAUSE, job_id)
        clock.time += 2 * HOUR
        look(service)
        assert "the deadline" in (stop_reason(service, job_id) or "")


def test_a_pause_before_a_job_was_extended_gives_the_next_round_no_time(
    settings: Settings, job: dict[str, Any], clock: Clock
) -> None:
    with server(settings, now=clock) as service:
        job_id = put(service, limited(job, max_time="1h"))
        for _ in range(12):
            look(service)
        tell(service, PAUSE, job_id)
        clock.time += 5 * HOUR
        tell(service, STOP, job_id)  # from the pause
        for _ in range(50):
            look(service)
        assert state_of(service, job_id) is JobState.SUCCEEDED, reason_of(service, job_id)
        extend(job_id, 5, database=service.runtime.database, key=None, now=clock())
        look(service)
        clock.time += HOUR
        look(service)
        assert "max_time" in (stop_reason(service, job_id) or "")
